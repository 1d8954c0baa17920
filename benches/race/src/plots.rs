//! The plots: horizontal bars for each peer, and the latencies as a curve.

use std::io;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::Data;
use crate::peers::{ENGINE, REFERENCE};
use crate::Results;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A panel of bars: its title, and a value for each peer.
struct Panel {
    title: String,
    bars: Vec<(&'static str, f64)>,
}

/// Writes all plots for which there are figures into `dir`.
pub fn draw(results: &Results, dir: &Path) -> io::Result<()> {
    let processor =
        panels(results, &["echo_50", "echo_1000", "pipelined", "churn"], |data| data.ratio.median());
    bars(&dir.join("cpu.svg"), "Server processor time ÷ raw epoll (less is better)", processor)?;
    let fanout = panels(results, &["fanout_100_many", "fanout_1000_many"], |data| data.cpu.median());
    bars(&dir.join("fanout.svg"), "Fan-out, 16 messages in flight: µs of processor per delivery", fanout)?;
    let idle = |title: &str, figure: fn(&crate::special::IdleCost) -> f64| Panel {
        title: format!("{} {title}", results.plan.idle),
        bars: results
            .idle
            .iter()
            .filter_map(|(peer, outcome)| Some((*peer, figure(outcome.as_ref().ok()?))))
            .collect(),
    };
    let memory = match results.idle.is_empty() {
        true => Vec::new(),
        false => {
            vec![idle("connections, never used", |idle| idle.fresh), idle("once used", |idle| idle.used)]
        }
    };
    bars(&dir.join("memory.svg"), "Server memory in bytes for each idle connection", memory)?;
    latency(&dir.join("latency.svg"), results)
}

fn panels(results: &Results, ids: &[&str], figure: impl Fn(&Data) -> f64) -> Vec<Panel> {
    ids.iter()
        .filter_map(|id| results.scenario(id))
        .map(|(scenario, cells)| Panel {
            title: scenario.title.to_owned(),
            bars: cells
                .iter()
                .filter_map(|cell| Some((cell.peer, figure(cell.outcome.as_ref().ok()?))))
                .filter(|(_, value)| value.is_finite())
                .collect(),
        })
        .collect()
}

pub fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("a plot could not be drawn: {error}"))
}

pub fn color(peer: &str) -> RGBColor {
    match peer {
        ENGINE => RGBColor(200, 60, 40),
        REFERENCE => RGBColor(60, 60, 60),
        _ => RGBColor(120, 150, 190),
    }
}

const ROW: u32 = 22;
const WIDTH: u32 = 520;

/// Side by side, on a logarithmic scale: some peers are twenty times as dear as others.
fn bars(path: &Path, title: &str, panels: Vec<Panel>) -> io::Result<()> {
    let rows = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0) as u32;
    if rows == 0 {
        return Ok(());
    }
    let columns = panels.len().min(2);
    let lines = panels.len().div_ceil(columns);
    let height = 36 + lines as u32 * (rows * ROW + 40);
    let root = SVGBackend::new(path, (WIDTH * columns as u32, height)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let root = root.titled(title, ("sans-serif", 18)).map_err(failed)?;
    for (area, panel) in root.split_evenly((lines, columns)).into_iter().zip(&panels) {
        panel_of(&area, panel)?;
    }
    root.present().map_err(failed)
}

fn panel_of(area: &Area<'_>, panel: &Panel) -> io::Result<()> {
    let text = ("sans-serif", 13).into_font();
    let draw =
        |content: String, at: (i32, i32)| area.draw(&Text::new(content, at, text.clone())).map_err(failed);
    draw(panel.title.clone(), (130, 4))?;
    let values = || panel.bars.iter().map(|(_, value)| value.max(1e-9));
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
    // The least has some length as well.
    let floor = least / 1.6;
    let scale = f64::from(WIDTH - 220) / (most / floor).ln().max(0.1);
    for (n, (peer, value)) in panel.bars.iter().enumerate() {
        let top = 26 + n as i32 * ROW as i32;
        let length = ((value.max(1e-9) / floor).ln() * scale) as i32;
        draw((*peer).to_owned(), (6, top))?;
        let bar = Rectangle::new([(130, top), (130 + length, top + ROW as i32 - 6)], color(peer).filled());
        area.draw(&bar).map_err(failed)?;
        let digits = if *value >= 100.0 { 0 } else { 2 };
        draw(format!("{value:.digits$}"), (136 + length, top))?;
    }
    Ok(())
}

/// The percentiles of the open loop, in which a server that stops is seen to have stopped.
fn latency(path: &Path, results: &Results) -> io::Result<()> {
    let Some((scenario, cells)) = results.scenario("echo_open") else { return Ok(()) };
    let curves: Vec<(&str, &crate::load::Latencies)> =
        cells.iter().filter_map(|cell| Some((cell.peer, &cell.outcome.as_ref().ok()?.latencies))).collect();
    let highest = curves.iter().map(|(_, latencies)| latencies.value_at_quantile(0.9995)).max().unwrap_or(0);
    if highest == 0 {
        return Ok(());
    }
    let root = SVGBackend::new(path, (900, 460)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    // Nines on the horizontal axis: 1 is the 90th percentile, 2 the 99th, 3 the 99.9th.
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("Latency: {}", scenario.title), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.3f64..3.3f64, (10f64..highest as f64 / 1000.0 * 1.3).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("microseconds")
        .x_label_formatter(&|nines| {
            format!("{}", 100.0 - 100.0 / 10f64.powf(*nines)).chars().take(5).collect()
        })
        .draw()
        .map_err(failed)?;
    for (n, (peer, latencies)) in curves.iter().enumerate() {
        let points = (0..=60).map(|step| {
            let nines = 0.3 + f64::from(step) * 0.05;
            let quantile = 1.0 - 0.1f64.powf(nines);
            (nines, latencies.value_at_quantile(quantile) as f64 / 1000.0)
        });
        let style = match *peer {
            ENGINE | REFERENCE => color(peer).stroke_width(3),
            _ => Palette99::pick(n).stroke_width(1),
        };
        chart
            .draw_series(LineSeries::new(points, style))
            .map_err(failed)?
            .label(*peer)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(failed)?;
    root.present().map_err(failed)
}
