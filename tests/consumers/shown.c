/* Prints the start of every event that libical reads from a calendar, one per line. Fails if libical
 * marks a line as wrong, except for an empty summary, which it reads as none. usage: shown FILE */
#include <libical/ical.h>
#include <stdio.h>
#include <string.h>

/* The number of wrong lines of a component. */
static int wrong(icalcomponent *component)
{
    int count = 0;
    for (icalproperty *error = icalcomponent_get_first_property(component, ICAL_XLICERROR_PROPERTY); error;
         error = icalcomponent_get_next_property(component, ICAL_XLICERROR_PROPERTY)) {
        const char *text = icalproperty_get_xlicerror(error);
        if (text && strstr(text, "No value for SUMMARY"))
            continue;
        fprintf(stderr, "%s\n", text ? text : "?");
        count++;
    }
    for (icalcomponent *inner = icalcomponent_get_first_component(component, ICAL_ANY_COMPONENT); inner;
         inner = icalcomponent_get_next_component(component, ICAL_ANY_COMPONENT))
        count += wrong(inner);
    return count;
}

static char *line(char *into, size_t size, void *file)
{
    return fgets(into, (int)size, file);
}

int main(int count, char **arguments)
{
    FILE *file = count > 1 ? fopen(arguments[1], "r") : NULL;
    if (!file)
        return 2;
    icalparser *parser = icalparser_new();
    icalparser_set_gen_data(parser, file);
    icalcomponent *calendar = icalparser_parse(parser, line);
    if (!calendar || wrong(calendar) > 0)
        return 1;
    for (icalcomponent *event = icalcomponent_get_first_component(calendar, ICAL_VEVENT_COMPONENT); event;
         event = icalcomponent_get_next_component(calendar, ICAL_VEVENT_COMPONENT))
        puts(icaltime_as_ical_string(icalcomponent_get_dtstart(event)));
    icalcomponent_free(calendar);
    icalparser_free(parser);
    return 0;
}
