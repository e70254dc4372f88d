//! The last hour as a small plot: a bar a minute, drawn by the server.

use super::html::{Html, grouped};

/// Width of a minute, and of what of it is a bar.
const STEP: u64 = 4;
const BAR: u64 = 3;
/// The height of the highest bar.
const HEIGHT: u64 = 40;

/// `counts`: minute by minute, the last one last. `is_trouble`: in another colour.
pub(super) fn plot(html: &mut Html, what: &'static str, counts: &[u64], is_trouble: bool) {
    let (sum, most) = (counts.iter().sum(), counts.iter().copied().max().unwrap_or(0));
    html.raw(if is_trouble { "<div class=\"warn\">" } else { "<div>" });
    html.raw("<div class=\"row\"><span>").raw(what).raw("</span><b>").number(sum).raw("</b></div>");
    let minutes = u64::try_from(counts.len()).unwrap_or(0);
    let label = format!("{what}: {} in the last hour, {} in a minute at most", grouped(sum), grouped(most));
    html.raw("<svg role=\"img\" preserveAspectRatio=\"none\" viewBox=\"0 0 ")
        .text(&(minutes * STEP).to_string());
    html.raw(" ").text(&(HEIGHT + 1).to_string()).raw("\" aria-label=\"").text(&label).raw("\"><path d=\"");
    for (at, count) in (0_u64..).zip(counts) {
        // One is seen beside a thousand.
        let height = (count * HEIGHT).div_ceil(most.max(1));
        if height > 0 {
            html.text(&format!("M{} {}h{BAR}V{HEIGHT}h-{BAR}z", at * STEP, HEIGHT - height));
        }
    }
    html.raw("\"/><line x1=\"0\" x2=\"100%\" y1=\"")
        .text(&HEIGHT.to_string())
        .raw("\" y2=\"")
        .text(&HEIGHT.to_string());
    html.raw("\"/></svg><div class=\"axis\"><span>60 min ago</span><span>at most ");
    html.number(most).raw(" a minute</span><span>now</span></div></div>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stands_for_each_minute_that_had_something() {
        let mut html = Html::default();
        plot(&mut html, "accepted", &[0, 1, 1000, 0], false);
        let text = html.into_string();
        assert!(text.contains("d=\"M4 39h3V40h-3zM8 0h3V40h-3z\""), "{text}");
        assert!(text.contains("accepted: 1,001 in the last hour, 1,000 in a minute at most"), "{text}");
        let mut empty = Html::default();
        plot(&mut empty, "accepted", &[0; 60], false);
        assert!(empty.into_string().contains("d=\"\""));
    }
}
