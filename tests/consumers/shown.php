<?php
// Prints the start of every event that sabre/vobject shows of a calendar, one per line, sorted: the
// objects that a server keeps, expanded.
// usage: php shown.php FILE
error_reporting(E_ALL & ~E_DEPRECATED);
require 'Sabre/VObject/autoload.php';

$starts = [];
$objects = new Sabre\VObject\Splitter\ICalendar(fopen($argv[1], 'r'));
while ($object = $objects->getNext()) {
    // The older version changes the object, the newer one returns another.
    $expanded = $object->expand(new DateTime('2020-01-01Z'), new DateTime('2040-01-01Z')) ?? $object;
    foreach ($expanded->select('VEVENT') as $event) {
        $start = (string) $event->DTSTART;
        $starts[] = $start;
    }
}
sort($starts);
echo implode("\n", $starts), "\n";
