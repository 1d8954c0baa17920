//! The plot of what a message costs as connections become many.

use std::io;
use std::path::Path;

use plotters::prelude::*;

use crate::peers::{ENGINE, REFERENCE};
use crate::plots::{color, failed};
use crate::scale::{Outcome, BUSY};
use crate::Results;

/// Writes it into `dir`, when there are figures.
pub fn draw(results: &Results, dir: &Path) -> io::Result<()> {
    let Some(Ok(scale)) = &results.scale else { return Ok(()) };
    let path = dir.join("scale.svg");
    let root = SVGBackend::new(&path, (1040, 420)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let root = root
        .titled("Server processor time for an echo of 64 B (less is better)", ("sans-serif", 18))
        .map_err(failed)?;
    for (n, area) in root.split_evenly((1, BUSY.len())).iter().enumerate() {
        panel(area, scale, n)?;
    }
    root.present().map_err(failed)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    scale: &Outcome,
    n: usize,
) -> io::Result<()> {
    let line = |server: usize| {
        scale.points.iter().filter_map(move |point| {
            let cpu = &point.busy.get(n)?.cpu[server];
            Some((point.connections as f64, cpu.median(), cpu.interval()))
        })
    };
    let highest = line(0).chain(line(1)).map(|(_, _, interval)| interval.1).fold(0.0, f64::max);
    let bounds = |points: Option<&crate::scale::Point>| points.map_or(1.0, |point| point.connections as f64);
    let (first, last) = (bounds(scale.points.first()), bounds(scale.points.last()));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} % of the connections are busy", BUSY[n]), ("sans-serif", 14))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d((first * 0.8..last * 1.25).log_scale(), 0f64..highest * 1.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("connections")
        .y_desc("microseconds a message")
        .x_label_formatter(&|count| format!("{count:.0}"))
        .draw()
        .map_err(failed)?;
    for (server, name) in [REFERENCE, ENGINE].into_iter().enumerate() {
        let style = color(name).stroke_width(2);
        let medians = line(server).map(|(count, median, _)| (count, median));
        chart
            .draw_series(LineSeries::new(medians, style))
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let bars = line(server).map(|(count, median, (low, high))| {
            ErrorBar::new_vertical(count, low, median, high, color(name).filled(), 6)
        });
        chart.draw_series(bars).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(failed)
        .map(drop)
}
