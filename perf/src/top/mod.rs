//! `tidemill perf top`: what a broker does right now, in a terminal.
//!
//! Throughput, percentiles of each stage, a heat map of the last minutes, how busy each shard is
//! and what goes through the mesh. The view is made of differences between readings of the admin
//! port; it keeps a bounded history and draws from it alone, so that it can be drawn into memory,
//! too (as its tests do).
//!
//! Start reading at [`Top`].

mod draw;
mod heat;
mod stages;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ratatui::Terminal;
use ratatui::backend::{Backend, TestBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::admin::Admin;
use crate::document::LatencyDocument;
use crate::histogram::is_sampled;
use crate::interval::Between;
use crate::machine::limits::Limits;

/// How many intervals are kept: the widest terminal's heat map.
const HISTORY_MAX: usize = 400;

/// How many intervals the table of stages is of.
const RECENT: usize = 10;

/// What the view knows.
#[derive(Debug)]
pub struct Top {
    address: String,
    every: Duration,
    /// What the broker's machine can do at most, as far as it was measured.
    limits: Limits,
    last: Option<LatencyDocument>,
    history: VecDeque<Between>,
    /// The tag whose heat map is shown.
    shown: usize,
    /// Why the last reading failed, if it did.
    trouble: Option<String>,
}

impl Top {
    /// A view of the broker at this admin address that is renewed so often; its rates stand
    /// beside the limits of its machine.
    #[must_use]
    pub fn new(address: &str, every: Duration, limits: Limits) -> Self {
        Self {
            address: address.to_owned(),
            every,
            limits,
            last: None,
            history: VecDeque::new(),
            shown: 0,
            trouble: None,
        }
    }

    /// A new reading, or why there is none.
    pub fn take(&mut self, reading: Result<LatencyDocument, String>) {
        let document = match reading {
            Ok(document) => document,
            Err(why) => {
                self.trouble = Some(why);
                return;
            }
        };
        self.trouble = None;
        if let Some(last) = &self.last {
            match Between::new(last, &document) {
                Ok(Some(between)) => self.history.push_back(between),
                Ok(None) => self.trouble = Some("the broker was started anew".to_owned()),
                Err(error) => self.trouble = Some(error.to_string()),
            }
            if HISTORY_MAX < self.history.len() {
                self.history.pop_front();
            }
        }
        self.last = Some(document);
    }

    /// The next (or previous) tag's heat map.
    pub fn show_next(&mut self, forwards: bool) {
        let count = self.tags().len().max(1);
        let step = if forwards { 1 } else { count - 1 };
        self.shown = (self.shown.min(count - 1) + step) % count;
    }

    /// Tags met in the history: whole requests first, then the stages, each in their order. Whole
    /// requests are all of them: those that were sampled stand for the same.
    fn tags(&self) -> Vec<String> {
        let mut tags: Vec<String> = Vec::new();
        for (tag, _) in self.history.iter().flat_map(|between| &between.stages) {
            if !tags.contains(tag) && !is_sampled(tag) {
                tags.push(tag.clone());
            }
        }
        tags.sort_by_key(|tag| !tag.ends_with(".total"));
        tags
    }

    /// The tag whose heat map is shown.
    fn shown_tag(&self) -> Option<String> {
        let tags = self.tags();
        let last = tags.len().checked_sub(1)?;
        Some(tags[self.shown.min(last)].clone())
    }

    /// Turns of a shard that were above the limit, in the time shown.
    fn stalls(&self, shard: u16) -> u64 {
        let of_shard = |between: &Between| {
            let found = between.shards.iter().find(|other| other.shard == shard);
            found.map_or(0, |found| found.stalls)
        };
        self.history.iter().map(of_shard).sum()
    }

    /// The latest interval.
    fn now(&self) -> Option<&Between> {
        self.history.back()
    }

    /// A stage's times over the last few intervals: single ones are too short for p99.9.
    fn recent(&self, tag: &str) -> Option<Histogram<u64>> {
        let recent = self.history.iter().rev().take(RECENT);
        recent.filter_map(|between| between.stage(tag)).fold(None, |sum, next| match sum {
            None => Some(next.clone()),
            Some(mut sum) => {
                // Of one broker, so of one range: if not, what there is stands.
                if sum.add(next).is_err() {
                    return Some(next.clone());
                }
                Some(sum)
            }
        })
    }

    /// How long those intervals were.
    fn recent_seconds(&self) -> f64 {
        self.history.iter().rev().take(RECENT).map(|between| between.seconds).sum()
    }
}

/// Shows the view until `q`, Esc or Ctrl-C.
pub fn run(admin: &Admin, every: Duration, limits: Limits) -> io::Result<()> {
    let mut top = Top::new(admin.address(), every, limits);
    // What cannot be reached at all is told before the screen is taken.
    top.take(Ok(admin.latency().map_err(io::Error::other)?));
    let mut terminal = ratatui::try_init()?;
    let read = || admin.latency().map_err(|error| error.to_string());
    let outcome = show(&mut top, &mut terminal, read, next_event);
    ratatui::try_restore()?;
    outcome
}

/// What happens at the terminal within this time, if anything does.
fn next_event(within: Duration) -> io::Result<Option<Event>> {
    if event::poll(within)? { event::read().map(Some) } else { Ok(None) }
}

/// The view of one interval as text, as large as the terminal or as usual.
///
/// # Errors
/// If the broker does not answer.
pub fn once(admin: &Admin, every: Duration, limits: Limits) -> io::Result<String> {
    const USUAL: (u16, u16) = (100, 40);
    let mut top = Top::new(admin.address(), every, limits);
    let begun = Instant::now();
    top.take(Ok(admin.latency().map_err(io::Error::other)?));
    std::thread::sleep(every.saturating_sub(begun.elapsed()));
    top.take(Ok(admin.latency().map_err(io::Error::other)?));
    let (width, height) = ratatui::crossterm::terminal::size().unwrap_or(USUAL);
    let (width, height) = (width.max(USUAL.0), height.max(USUAL.1));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(io::Error::other)?;
    terminal.draw(|frame| draw::draw(&top, frame)).map_err(io::Error::other)?;
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    let rows: Vec<String> = (0..height).map(|y| row(y).trim_end().to_owned()).collect();
    Ok(rows.join("\n"))
}

/// Draws, reads and heeds keys, until one of them ends it. `next_event` waits at most as long as
/// it is told; when that time has passed, `read` is asked for the next reading.
fn show<B: Backend>(
    top: &mut Top,
    terminal: &mut Terminal<B>,
    mut read: impl FnMut() -> Result<LatencyDocument, String>,
    mut next_event: impl FnMut(Duration) -> io::Result<Option<Event>>,
) -> io::Result<()>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut next = Instant::now() + top.every;
    loop {
        terminal.draw(|frame| draw::draw(top, frame)).map_err(io::Error::other)?;
        match next_event(next.saturating_duration_since(Instant::now()))? {
            Some(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if interrupt => return Ok(()),
                    KeyCode::Tab | KeyCode::Right | KeyCode::Down => top.show_next(true),
                    KeyCode::BackTab | KeyCode::Left | KeyCode::Up => top.show_next(false),
                    _ => {}
                }
            }
            Some(_) => {}
            None => {
                top.take(read());
                next = Instant::now() + top.every;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;
    use crate::interval::tests::readings;

    /// The view with these events, each at once; none is time that passes. How many readings were
    /// asked for, and the last screen.
    fn shown(events: Vec<Option<Event>>, readings: Vec<LatencyDocument>) -> (Top, usize, String) {
        let mut top = Top::new("127.0.0.1:9644", Duration::from_secs(1), Limits::default());
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        let (mut events, mut readings, mut asked) = (events.into_iter(), readings.into_iter(), 0);
        let read = || {
            asked += 1;
            readings.next().ok_or_else(|| "nobody answers".to_owned())
        };
        let next_event = |within: Duration| {
            assert!(within <= Duration::from_secs(1), "a reading is due before");
            events.next().ok_or_else(|| io::Error::other("it did not end"))
        };
        show(&mut top, &mut terminal, read, next_event).unwrap();
        assert_eq!(events.next(), None, "it ended too early");
        let buffer = terminal.backend().buffer();
        let screen = buffer.content.iter().map(ratatui::buffer::Cell::symbol).collect();
        (top, asked, screen)
    }

    fn key(code: KeyCode) -> Option<Event> {
        Some(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn ctrl(letter: char) -> Option<Event> {
        Some(Event::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL)))
    }

    /// Time that passes brings readings, on and on, those that fail among them; `q`, Esc and
    /// Ctrl-C end the view, and nothing else does.
    #[test]
    fn the_view_goes_on_until_it_is_ended() {
        let resized = Some(Event::Resize(100, 30));
        for end in [key(KeyCode::Char('q')), key(KeyCode::Esc), ctrl('c')] {
            let before = [None, None, key(KeyCode::Char('c')), ctrl('x'), resized.clone(), None];
            let events = before.into_iter().chain([end]).collect();
            let (_, asked, screen) = shown(events, readings().into_iter().take(2).collect());
            assert_eq!(asked, 3);
            assert!(screen.contains("produce.durable"), "{screen}");
            assert!(screen.contains("nobody answers"), "{screen}");
        }
    }

    /// Keys go through the heat maps, forwards and backwards; a key that is let go does nothing.
    #[test]
    fn keys_choose_the_heat_map() {
        let quit = || key(KeyCode::Char('q'));
        let after = |keys: &[KeyCode]| {
            let keys = keys.iter().map(|code| key(*code));
            let events = [None, None].into_iter().chain(keys).chain([quit()]).collect();
            let (top, _, screen) = shown(events, readings().into_iter().take(2).collect());
            let tag = top.shown_tag().unwrap();
            assert!(screen.contains(&format!("▸{tag}")), "{tag}: {screen}");
            tag
        };
        let first = after(&[]);
        let second = after(&[KeyCode::Tab]);
        assert_ne!(first, second);
        assert_eq!(after(&[KeyCode::Right, KeyCode::Left]), first);
        assert_eq!(after(&[KeyCode::Down, KeyCode::BackTab, KeyCode::Down]), second);
        let mut released = KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        let events = vec![None, None, Some(Event::Key(released)), quit()];
        let (top, ..) = shown(events, readings().into_iter().take(2).collect());
        assert_eq!(top.shown_tag().unwrap(), first);
    }
}
