//! A profile as one HTML file, which holds everything it needs and opens without a network.

use super::Profile;

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// One script: every part sees what the parts before it define.
const SCRIPT: &str = concat!(
    include_str!("common.js"),
    include_str!("head.js"),
    include_str!("roofline.js"),
    include_str!("timeline.js"),
    include_str!("treemap.js"),
    include_str!("memory.js"),
    include_str!("table.js"),
    include_str!("start.js"),
);

/// The page. The profile lies in it as JSON, as it is in its file, and the script draws everything from that.
///
/// # Errors
/// A profile that is no JSON.
pub fn page(profile: &Profile) -> serde_json::Result<String> {
    // In JSON `<` stands in strings alone, where it can be written so. Without it, no name ends the element early.
    let data = serde_json::to_string(profile)?.replace('<', "\\u003c");
    // The profile comes last, so that nothing is looked for in it.
    Ok(FRAME.replacen("{{style}}", STYLE, 1).replacen("{{script}}", SCRIPT, 1).replacen(
        "{{profile}}",
        &data,
        1,
    ))
}
