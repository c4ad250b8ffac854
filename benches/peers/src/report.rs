//! The table: tower-bearer's figures in the first row, and all others as a ratio to them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::figures::{Compared, Figure, Row, Stampede};

const COLUMNS: [&str; 16] = [
    "",
    "instructions, whole",
    "instructions, added",
    "ns, whole",
    "ns, added",
    "ns, whole, two threads",
    "allocations",
    "fetches",
    "instructions per caller",
    "CPU ns per caller",
    "bytes per caller",
    "waited > 1 ms",
    "p99.9",
    "expired tokens sent",
    "failed or unfinished",
    "fetches per second",
];

/// The table for a terminal, or for `RESULTS.md`.
pub fn table(rows: &[Row], markdown: bool) -> Table {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::UTF8_FULL_CONDENSED });
    table.set_content_arrangement(if markdown { ContentArrangement::Disabled } else { ContentArrangement::Dynamic });
    table.set_header(COLUMNS);
    table.add_row(cells(&rows[0], format!("{} {}: absolute", rows[0].name, rows[0].version), absolute));
    for row in rows {
        table.add_row(cells(row, format!("{} {}", row.name, row.version), ratio));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn cells(row: &Row, name: String, show: fn(&Compared) -> String) -> Vec<String> {
    let mut cells = vec![name];
    match &row.hot_path {
        Ok(hot) => cells.extend([
            told(hot.instructions.as_ref().map(show)),
            told(hot.instructions_added.as_ref().map(show)),
            show(&hot.nanos),
            show(&hot.nanos_added),
            show(&hot.nanos_on_two_threads),
            hot.allocations.to_string(),
        ]),
        Err(reason) => cells.extend(missing(reason, 6)),
    }
    let measured: Vec<_> = row.stampedes.iter().flatten().collect();
    match (measured.first(), measured.last(), row.stampedes.iter().find_map(|stampede| stampede.as_ref().err())) {
        (Some(smallest), Some(largest), reason) => {
            let costs = |cell: String| if smallest.waiting == 0 { "none waits".to_owned() } else { cell };
            let mut fetches: Vec<_> = measured.iter().map(|stampede| fetched(stampede)).collect();
            fetches.extend(reason.cloned());
            cells.extend([
                fetches.join(" / "),
                costs(smallest.instructions.as_ref().map(|count| told(count.as_ref().map(show))).unwrap_or_default()),
                costs(show(&largest.nanos)),
                costs(show(&largest.bytes)),
            ]);
        }
        (_, _, reason) => cells.extend(missing(reason.map_or("there is no fetch", String::as_str), 4)),
    }
    match &row.rotation {
        Ok(rotation) => cells.extend([
            percent(&rotation.waited),
            format!("{} ms", spread(&rotation.p999.own)),
            rotation.expired.to_string(),
            (rotation.failed + rotation.unfinished).to_string(),
            spread(&rotation.fetches),
        ]),
        Err(reason) => cells.extend(missing(reason, 5)),
    }
    cells
}

/// How often it fetched, and how many callers got no usable token.
fn fetched(stampede: &Stampede) -> String {
    let mut text = stampede.fetches.to_string();
    if stampede.failed > 0 {
        text += &format!(" ({} failed)", stampede.failed);
    }
    if stampede.expired > 0 {
        text += &format!(" ({} sent an expired token)", stampede.expired);
    }
    text
}

fn missing(reason: &str, columns: usize) -> Vec<String> {
    let mut cells = vec![String::new(); columns];
    reason.clone_into(&mut cells[0]);
    cells
}

fn told(cell: Result<String, &String>) -> String {
    cell.unwrap_or_else(Clone::clone)
}

fn absolute(compared: &Compared) -> String {
    spread(&compared.own)
}

fn ratio(compared: &Compared) -> String {
    format!("{} x", spread(&compared.ratio))
}

fn percent(share: &Figure) -> String {
    let [low, median, high] = [share.low, share.median, share.high].map(|share| format!("{:.2}", 100.0 * share));
    if low == high { format!("{median} %") } else { format!("{median} % ({low}..{high})") }
}

/// A count that is the same in each round has no spread to show.
fn spread(Figure { low, median, high }: &Figure) -> String {
    let digits = |value: f64| match value.abs() {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    let [low, median, high] = [*low, *median, *high].map(digits);
    if low == high { median } else { format!("{median} ({low}..{high})") }
}
