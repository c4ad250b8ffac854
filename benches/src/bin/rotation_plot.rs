//! Draws the README's two pictures from measured data: `benches/plots/*.csv` to `benches/plots/*.svg`.
//!
//! ```text
//! cargo bench -p benches --bench rotation -- --csv "$PWD/benches/plots/rotation.csv"
//! cargo bench -p benches --bench stampede -- --csv "$PWD/benches/plots/stampede.csv"
//! cargo run -p benches --bin plots
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use plotters::prelude::*;

/// Readable on white and on near-black alike.
const GREY: RGBColor = RGBColor(128, 128, 128);
const OURS: RGBColor = RGBColor(31, 136, 229);
const COLOURS: [RGBColor; 6] = [
    RGBColor(230, 81, 0),
    RGBColor(0, 151, 167),
    RGBColor(67, 160, 71),
    RGBColor(171, 71, 188),
    RGBColor(200, 150, 0),
    RGBColor(128, 128, 128),
];
const SIZE: (u32, u32) = (860, 400);

type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// Curves by name, from lines of `x,name,y,…`.
fn read(path: &Path) -> io::Result<Curves> {
    let mut curves = Curves::new();
    for line in fs::read_to_string(path)?.lines().skip(1) {
        let mut cells = line.split(',');
        let number = |cells: &mut std::str::Split<'_, char>| cells.next().and_then(|cell| cell.parse::<f64>().ok());
        let x = number(&mut cells);
        let name = cells.next();
        let y = number(&mut cells);
        let (Some(x), Some(name), Some(y)) = (x, name, y) else {
            return Err(io::Error::other(format!("{}: {line}", path.display())));
        };
        curves.entry(name.to_owned()).or_default().push((x, y));
    }
    Ok(curves)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

struct Axes {
    caption: &'static str,
    x: &'static str,
    y: &'static str,
    from: (f64, f64),
    to: (f64, f64),
    /// Whether the horizontal axis is logarithmic, too.
    log: bool,
}

fn draw(path: &Path, axes: &Axes, curves: &Curves) -> Drawn {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let text = |size: u32| ("sans-serif", size).into_font().color(&GREY);
    let mut builder = ChartBuilder::on(&area);
    builder.caption(axes.caption, text(18)).margin(12).margin_right(36).x_label_area_size(42).y_label_area_size(72);
    let y = (axes.from.1..axes.to.1).log_scale();
    macro_rules! chart {
        ($x:expr, $label:expr) => {{
            let mut chart = builder.build_cartesian_2d($x, y)?;
            chart
                .configure_mesh()
                .axis_style(GREY)
                .bold_line_style(GREY.mix(0.25))
                .light_line_style(TRANSPARENT)
                .label_style(text(13))
                .axis_desc_style(text(14))
                .x_desc(axes.x)
                .y_desc(axes.y)
                .x_label_formatter(&$label)
                .y_label_formatter(&|micros| time(*micros))
                .draw()?;
            for ((name, points), colour) in curves.iter().zip(COLOURS) {
                // Ours has one colour in all pictures.
                let (colour, width) = if name == "tower-bearer" { (OURS, 3) } else { (colour, 2) };
                let style = colour.stroke_width(width);
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), style))?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .label_font(text(13))
                .border_style(TRANSPARENT)
                .draw()?;
        }};
    }
    if axes.log {
        chart!((axes.from.0..axes.to.0).log_scale(), |waiters: &f64| format!("{waiters}"));
    } else {
        chart!(axes.from.0..axes.to.0, |millis: &f64| format!("{:.1} s", millis / 1000.0));
    }
    area.present()?;
    Ok(())
}

fn time(micros: f64) -> String {
    match micros {
        _ if micros < 1e3 => format!("{micros} µs"),
        _ if micros < 1e6 => format!("{} ms", micros / 1e3),
        _ => format!("{} s", micros / 1e6),
    }
}

fn main() -> Drawn {
    let plots = Path::new(env!("CARGO_MANIFEST_DIR")).join("plots");
    rotation(&plots)?;
    stampede(&plots)
}

fn rotation(plots: &Path) -> Drawn {
    let mut rotation = read(&plots.join("rotation.csv"))?;
    rotation.values_mut().for_each(|points| points.retain(|(millis, _)| *millis < 4000.0));
    let axes = Axes {
        caption: "Slowest request of each millisecond; a token lives 1 s, a fetch takes 20 ms",
        x: "time",
        y: "latency",
        from: (0.0, 0.1),
        to: (4000.0, 1e6),
        log: false,
    };
    draw(&plots.join("rotation.svg"), &axes, &rotation)
}

fn stampede(plots: &Path) -> Drawn {
    let axes = Axes {
        caption: "From the issuer's answer to the first waiter's return; one thread",
        x: "waiters",
        y: "time",
        from: (1e3, 0.1),
        to: (1e6, 1e8),
        log: true,
    };
    draw(&plots.join("stampede.svg"), &axes, &read(&plots.join("stampede.csv"))?)
}
