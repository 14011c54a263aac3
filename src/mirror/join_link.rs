//! The link under which people join the online meeting of an event.

use std::borrow::Cow;

use crate::json::JsonMembers;

/// Hosts of meeting services, with all hosts below them. Only links to these are taken out of a
/// body, where most links are no meetings.
const MEETING_HOSTS: [&str; 14] = [
    "teams.microsoft.com",
    "teams.live.com",
    "teams.cloud.microsoft",
    "gov.teams.microsoft.us",
    "dod.teams.microsoft.us",
    "zoom.us",
    "zoomgov.com",
    "webex.com",
    "meet.google.com",
    "gotomeeting.com",
    "meet.goto.com",
    "chime.aws",
    "whereby.com",
    "meet.jit.si",
];

const SCHEME: &str = "https://";
/// The longest link that is one, bytes.
const MAX_LINK: usize = 4096;
/// How much of a text is searched, bytes: invitations have the link near their beginning or in the
/// text of a few kilobytes.
const MAX_TEXT: usize = 256 << 10;

/// The join link: that of the online meeting, else one in a location, else the first one in the body
/// that leads to a known meeting service. `None` if there is none.
pub fn join_url(event: &JsonMembers<'_>) -> Option<String> {
    let nested = |member: &str, name: &str| {
        let members = JsonMembers::parse(event.get(member)?.get().as_bytes()).ok()?;
        members.text(name).map(Cow::into_owned)
    };
    let of_meeting = nested("onlineMeeting", "joinUrl")
        .or_else(|| event.text("onlineMeetingUrl").map(Cow::into_owned));
    let whole = |text: String| Some(text.trim().to_owned()).filter(|text| is_link(text));
    of_meeting
        .and_then(whole)
        .or_else(|| nested("location", "displayName").and_then(|text| links(&text).next()))
        .or_else(|| nested("location", "locationUri").and_then(|text| links(&text).next()))
        .or_else(|| {
            let body = nested("body", "content")?;
            links(&body).find(|link| leads_to_meeting(link))
        })
}

fn is_link(text: &str) -> bool {
    text.len() <= MAX_LINK
        && text.strip_prefix(SCHEME).is_some_and(|rest| !rest.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The `https` links in the beginning of a text or of HTML. Each byte is looked at once.
fn links(text: &str) -> impl Iterator<Item = String> {
    let mut rest = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
    std::iter::from_fn(move || {
        loop {
            let (_, found) = rest.split_once(SCHEME)?;
            let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'<>)]}|\\".contains(c);
            let end = found.find(ends).unwrap_or(found.len());
            let (link, after) = found.split_at_checked(end)?;
            rest = after;
            let link = link.trim_end_matches(['.', ',', ';', ':', '!']);
            if !link.is_empty() && link.len() <= MAX_LINK {
                // The only character of a link that HTML has to escape and that is common in them.
                return Some(format!("{SCHEME}{}", link.replace("&amp;", "&")));
            }
        }
    })
}

fn leads_to_meeting(link: &str) -> bool {
    let rest = link.strip_prefix("https://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    MEETING_HOSTS.iter().any(|known| {
        host.strip_suffix(known).is_some_and(|left| left.is_empty() || left.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_found_where_organizers_put_it() {
        for (event, expected) in [
            (
                r#"{"onlineMeeting":{"joinUrl":" https://teams.microsoft.com/l/1 "},"onlineMeetingUrl":"https://zoom.us/j/2"}"#,
                Some("https://teams.microsoft.com/l/1"),
            ),
            (
                r#"{"onlineMeeting":null,"onlineMeetingUrl":"https://zoom.us/j/2"}"#,
                Some("https://zoom.us/j/2"),
            ),
            (
                r#"{"location":{"displayName":"Room 1; https://example.org/meet?a=1"}}"#,
                Some("https://example.org/meet?a=1"),
            ),
            (
                r#"{"location":{"displayName":"Room 1","locationUri":"https://example.org/r"}}"#,
                Some("https://example.org/r"),
            ),
            (
                r#"{"body":{"content":"<a href=\"https://contoso.com/x\">x</a> <a href=\"https://eu01.web.zoom.us/j/3?a=1&amp;b=2\">Join</a>"}}"#,
                Some("https://eu01.web.zoom.us/j/3?a=1&b=2"),
            ),
            (
                r#"{"body":{"content":"Join: https://MEET.google.com/abc-defg."}}"#,
                Some("https://MEET.google.com/abc-defg"),
            ),
            (
                r#"{"body":{"content":"https://notzoom.us/j/1 https://zoom.us.evil.example/j"}}"#,
                None,
            ),
            (r#"{"body":{"content":"https://zoom.us@evil.example/j"}}"#, None),
            (
                r#"{"onlineMeetingUrl":"javascript:alert(1)","location":{"displayName":"http://zoom.us/1"}}"#,
                None,
            ),
            (r#"{"onlineMeetingUrl":"https://","subject":"https://zoom.us/j/4"}"#, None),
            ("{}", None),
        ] {
            let members = JsonMembers::parse(event.as_bytes()).unwrap();
            assert_eq!(join_url(&members).as_deref(), expected, "{event}");
        }
    }

    #[test]
    fn a_body_full_of_links_is_searched_once() {
        let many = "https://".repeat(200_000);
        assert_eq!(links(&many).count(), 0, "one link that is too long");
        assert_eq!(links(&"https://a ".repeat(20_000)).count(), 20_000);
    }
}
