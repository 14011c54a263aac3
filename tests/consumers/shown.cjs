// Prints the start of every event that a reader shows of a calendar, one per line, sorted.
// usage: node shown.cjs READER FILE, with the readers in $NODE_PATH, and TZ=UTC
const fs = require("fs");
const [, , reader, file] = process.argv;
const text = fs.readFileSync(file, "utf8");
const from = new Date("2020-01-01T00:00:00Z");
const to = new Date("2040-01-01T00:00:00Z");
const digits = (date) => date.toISOString().replace(/[-:]|\.\d+/g, "");
const written = (date, isDay) => (isDay ? digits(date).slice(0, 8) : digits(date));

const readers = {
  "ical-expander": () => {
    const IcalExpander = require("ical-expander");
    const found = new IcalExpander({ ics: text, maxIterations: 10000 }).between(from, to);
    return [...found.events, ...found.occurrences].map(({ startDate }) =>
      written(startDate.toJSDate(), startDate.isDate),
    );
  },
  "node-ical": () => {
    const starts = [];
    for (const event of Object.values(require("node-ical").sync.parseICS(text))) {
      if (event.type !== "VEVENT") continue;
      const all = event.recurrences ? Object.values(event.recurrences) : [event];
      for (const one of all) starts.push(written(one.start, one.datetype === "date"));
    }
    return starts;
  },
};

console.log(readers[reader]().sort().join("\n"));
