//! Looks up time zones by the names Graph uses: Windows names and IANA names (facts 79 and 82).

use jiff::tz::TimeZone;

/// The zone with a Windows or IANA name; `None` if the name is unknown, such as a sender's custom
/// zone.
pub fn find(name: &str) -> Option<TimeZone> {
    if ["utc", "etc/utc", "etc/gmt", "tzone://microsoft/utc"]
        .iter()
        .any(|utc| utc.eq_ignore_ascii_case(name))
    {
        return Some(TimeZone::UTC);
    }
    jiff::tz::db().get(iana(name).unwrap_or(name)).ok()
}

/// The IANA name of a Windows zone.
pub fn iana(name: &str) -> Option<&'static str> {
    // Territory "001" is the zone's default, used for a name without a country.
    localzone::win_zone_to_iana(name, Some("001"))
        .or_else(|| localzone::win_zone_to_iana(name, None))
        .or(match name {
            // Windows still has these two zones; Unicode's table no longer does.
            "Kamchatka Standard Time" => Some("Asia/Kamchatka"),
            "Mid-Atlantic Standard Time" => Some("Etc/GMT+2"),
            _ => None,
        })
}
