//! Draws the README's picture from measured data: `benches/plots/rotation.csv` to `benches/plots/rotation.svg`.
//!
//! ```text
//! cargo bench -p benches --bench rotation -- --csv "$PWD/benches/plots/rotation.csv"
//! cargo run -p benches --bin rotation_plot
//! ```

use std::path::Path;
use std::{fs, io};

use plotters::prelude::*;

/// Readable on white and on near-black.
const GREY: RGBColor = RGBColor(128, 128, 128);
const SIZE: (u32, u32) = (860, 380);
/// Seconds that are drawn.
const SHOWN: f64 = 4.0;

struct Line {
    /// The column of the file, which is also the label.
    name: &'static str,
    colour: RGBColor,
    width: u32,
    /// Where the label stands: seconds, microseconds.
    label: (f64, f64),
}

const LINES: [Line; 3] = [
    Line { name: "refresh on expiry", colour: RGBColor(230, 81, 0), width: 2, label: (0.12, 9_000.0) },
    Line { name: "tower-bearer", colour: RGBColor(31, 136, 229), width: 3, label: (0.12, 70.0) },
    Line { name: "no auth", colour: GREY, width: 2, label: (0.12, 0.35) },
];

/// The points of one line, from rows of `ms,name,p99_us`.
fn read(path: &Path, name: &str) -> io::Result<Vec<(f64, f64)>> {
    let text = fs::read_to_string(path)?;
    let cells = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let rows = cells.filter(|cells| cells.get(1) == Some(&name));
    let points = rows.map(|cells| Some((cells[0].parse::<f64>().ok()? / 1000.0, cells.get(2)?.parse().ok()?)));
    let points: Option<Vec<_>> = points.collect();
    points
        .filter(|points| !points.is_empty())
        .ok_or_else(|| io::Error::other(format!("no valid rows of {name} in {}", path.display())))
}

fn time(micros: f64) -> String {
    if micros < 1e3 { format!("{micros} µs") } else { format!("{} ms", micros / 1e3) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plots = Path::new(env!("CARGO_MANIFEST_DIR")).join("plots");
    let picture = plots.join("rotation.svg");
    let area = SVGBackend::new(&picture, SIZE).into_drawing_area();
    let text = |size: u32| ("sans-serif", size).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(&area)
        .caption("No request waits while the token is replaced each second", text(18))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(42)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..SHOWN, (0.1..100_000.0).log_scale())?;
    chart
        .configure_mesh()
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(text(13))
        .axis_desc_style(text(14))
        .x_labels(5)
        .x_desc("seconds")
        .y_desc("latency, p99")
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|micros| time(*micros))
        .draw()?;
    for Line { name, colour, width, label } in LINES {
        let points = read(&plots.join("rotation.csv"), name)?;
        let shown = points.into_iter().filter(|(seconds, _)| *seconds < SHOWN);
        chart.draw_series(LineSeries::new(shown, colour.stroke_width(width)))?;
        chart.draw_series([Text::new(name, label, ("sans-serif", 15).into_font().color(&colour))])?;
    }
    area.present()?;
    Ok(())
}
