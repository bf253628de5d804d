//! Several generator processes that run as one: told the same, started together, their histograms
//! merged.
//!
//! ```text
//! the one that was started                    each worker (`tidemill bench worker`)
//!   Order: settings, its share        ->        connects its share of the connections
//!                                     <-        Ready
//!   Start, once all are ready         ->        puts its share of the load on
//!                                     <-        Interval, each second: what it measured
//!                                     <-        Settled: nothing more to produce here
//!   Settled, once all are             ->        its readers may come to their end
//!                                     <-        End: what was acknowledged, what was seen
//!   Stop, if one has failed           ->        ends at once
//! ```
//!
//! What is said of a run bears its number: one run may follow another before the last word of a
//! worker that did not end in time.
//!
//! A worker speaks on its standard input and output, a line of JSON for each message: it may be a
//! child of this process, or run elsewhere (`ssh HOST tidemill bench worker`) without another port.
//! On one machine all have the same clock; between machines, latency to a reader is as true as
//! their clocks agree, and the result says so.
//!
//! Start reading at [`Fleet::execute`]; [`worker`] is the other side.

pub mod message;
pub mod worker;

use std::io::{BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidemill_runtime::clock;

use crate::listen::{Listening, Measured, Whose};
use crate::plan::Plan;
use crate::run::preparation_of;
use crate::settings::{Settings, Share};
use crate::stop;
use crate::streams;
use crate::trouble::Trouble;
use crate::watch::Watch;
use message::{FromWorker, Order, Start, ToWorker, Told, boot_id, read_line, write_line};

/// How long a worker may take to connect.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Between the word to start and the start: all have heard it by then.
const PREPARATION: Duration = Duration::from_millis(300);

/// How long after the last moment of a run a worker may take to tell its end.
const END_WITHIN: Duration = Duration::from_secs(30);

/// The longest that nobody looks at how a run goes.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The processes, started.
pub struct Fleet {
    workers: Vec<Worker>,
    heard: Receiver<(usize, Heard)>,
}

struct Worker {
    name: String,
    process: Child,
    input: ChildStdin,
}

enum Heard {
    Message(Box<Told>),
    /// It says nothing more; why.
    Gone(String),
}

impl Fleet {
    /// Starts the processes: `own` of them here, as `program` says, and one with each command.
    pub fn start(
        own: usize,
        program: impl Fn() -> Result<Command, Trouble>,
        commands: &[String],
    ) -> Result<Self, Trouble> {
        let (tell, heard) = channel();
        let mut fleet = Self { workers: Vec::new(), heard };
        for nth in 0..own {
            let mut command = program()?;
            command.arg("worker");
            fleet.add(format!("worker {}", nth + 1), command, &tell)?;
        }
        for text in commands {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("exec {text}"));
            fleet.add(format!("worker '{text}'"), command, &tell)?;
        }
        Ok(fleet)
    }

    fn add(
        &mut self,
        name: String,
        mut command: Command,
        tell: &Sender<(usize, Heard)>,
    ) -> Result<(), Trouble> {
        let failed =
            |error| Trouble::new(format!("cannot start {name} of the generator")).because(error);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = spawned.map_err(failed)?;
        let input = process.stdin.take().expect("it was asked for");
        let output = process.stdout.take().expect("it was asked for");
        let (nth, tell) = (self.workers.len(), tell.clone());
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let why = loop {
                match read_line(&mut output) {
                    Ok(Some(message)) => {
                        // Nobody listens any more at the very end only.
                        if tell.send((nth, Heard::Message(Box::new(message)))).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "it has ended".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            drop(tell.send((nth, Heard::Gone(why))));
        });
        self.workers.push(Worker { name, process, input });
        Ok(())
    }

    /// How many processes there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Carries a run out in all of them.
    ///
    /// # Errors
    /// If it could not begin. A process that fails later makes a run that is not clean.
    pub fn execute(
        &mut self,
        settings: &Settings,
        run: u64,
        watch: &mut Watch,
    ) -> Result<Measured, Trouble> {
        let connections = streams::count(settings);
        if connections < self.size() {
            return Err(Trouble::usage(format!(
                "{connections} connections cannot be divided between {} workers",
                self.size()
            ))
            .fix("ask for more with --connections"));
        }
        let of = self.size();
        for nth in 0..of {
            let share = Share { nth, of };
            let order = Order { run, share, settings: settings.clone() };
            self.tell(nth, &ToWorker::Order(Box::new(order)))?;
        }
        watch.say("connecting");
        let elsewhere = self.await_ready(run)?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let preparation = PREPARATION + preparation_of(connections.div_ceil(of));
        let unix = unix + preparation;
        let start = clock::monotonic().after(preparation);
        let mut plan = Plan::of(settings, run, start, unix.as_millis() as i64);
        let word = Start {
            boot_id: boot_id(),
            monotonic_nanos: start.nanos,
            unix_nanos: unix.as_nanos() as u64,
        };
        for nth in 0..of {
            self.tell(nth, &ToWorker::Start(word.clone()))?;
        }
        let mut listening = Listening::new(settings, &plan, Whose::Processes);
        self.listen(&mut plan, &mut listening, watch)?;
        let mut measured = listening.finish(&plan);
        if elsewhere && settings.readers.is_some() {
            let text = "end-to-end latency compares the clocks of several machines".to_owned();
            measured.notes.push(text);
        }
        Ok(measured)
    }

    fn tell(&mut self, nth: usize, message: &ToWorker) -> Result<(), Trouble> {
        let worker = &mut self.workers[nth];
        write_line(&mut worker.input, message).map_err(|error| {
            Trouble::new(format!("{} of the generator does not listen", worker.name)).because(error)
        })
    }

    /// Waits until all are connected; whether some run on another machine.
    fn await_ready(&mut self, run: u64) -> Result<bool, Trouble> {
        let (mut missing, mut elsewhere) = (self.size(), false);
        let until = Instant::now() + READY_WITHIN;
        while 0 < missing {
            let left = until.saturating_duration_since(Instant::now());
            let (nth, heard) = self.heard.recv_timeout(left).map_err(|_| {
                Trouble::new(format!("{missing} workers of the generator do not get ready"))
            })?;
            let name = &self.workers[nth].name;
            match heard {
                Heard::Message(told) if told.run != run => {}
                Heard::Message(told) => match told.word {
                    FromWorker::Ready { boot_id: theirs } => {
                        missing -= 1;
                        elsewhere |= theirs != boot_id();
                    }
                    FromWorker::Failed(why) => {
                        return Err(Trouble::new(format!("{name} of the generator: {why}")));
                    }
                    // Nothing else is said before the start.
                    _ => {}
                },
                Heard::Gone(why) => {
                    return Err(Trouble::new(format!("{name} of the generator: {why}")));
                }
            }
        }
        Ok(elsewhere)
    }

    /// Takes what the processes tell until all have ended.
    fn listen(
        &mut self,
        plan: &mut Plan,
        listening: &mut Listening,
        watch: &mut Watch,
    ) -> Result<(), Trouble> {
        let mut crew = vec![Stand::Producing; self.size()];
        let mut until = plan.end().after(plan.drain).after(END_WITHIN);
        let (mut told_settled, mut is_cut) = (false, false);
        while crew.contains(&Stand::Producing) || crew.contains(&Stand::Settled) {
            let wait = listening.next_look(plan).since(clock::monotonic()).min(LOOK_MAX);
            match self.heard.recv_timeout(wait) {
                Ok((nth, heard)) => self.take(nth, heard, plan, listening, &mut crew[nth]),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Trouble::new("all workers of the generator have ended"));
                }
            }
            if !told_settled && !crew.contains(&Stand::Producing) {
                told_settled = true;
                self.tell_all(&ToWorker::Settled(plan.run));
            }
            if stop::is_asked() && !std::mem::replace(&mut is_cut, true) {
                listening.ends().given_up.get_or_insert_with(|| stop::WHY.to_owned());
                plan.cut(clock::monotonic());
                until = until.min(plan.end().after(plan.drain).after(END_WITHIN));
                self.tell_all(&ToWorker::Cut(plan.run));
            }
            if until <= clock::monotonic() {
                self.give_up(plan, listening, "some workers of the generator do not end");
                crew.fill(Stand::Ended);
            }
            let ended = crew.iter().all(|stand| *stand == Stand::Ended);
            listening.look(plan, watch, ended)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        nth: usize,
        heard: Heard,
        plan: &Plan,
        listening: &mut Listening,
        stand: &mut Stand,
    ) {
        let word = match heard {
            Heard::Message(told) if told.run != plan.run => return,
            Heard::Message(told) => told.word,
            Heard::Gone(why) => FromWorker::Failed(why),
        };
        match word {
            FromWorker::Ready { .. } => {}
            FromWorker::Interval { tallies, cpu } => {
                listening.take_cpu(cpu);
                if !listening.take(&tallies) {
                    self.give_up(plan, listening, "a worker of the generator runs another load");
                }
            }
            FromWorker::Settled => {
                if *stand == Stand::Producing {
                    *stand = Stand::Settled;
                }
            }
            FromWorker::End { ends, used } => {
                *stand = Stand::Ended;
                let given_up = ends.given_up.is_some();
                listening.take_end(*ends);
                listening.take_use(&used);
                // Each of them may have been asked to end by the same signal.
                if given_up && !stop::is_asked() {
                    self.tell_all(&ToWorker::Stop(plan.run));
                }
            }
            FromWorker::Failed(why) => {
                *stand = Stand::Ended;
                let name = self.workers[nth].name.clone();
                let why = format!("{name} of the generator: {why}");
                self.give_up(plan, listening, &why);
            }
        }
    }

    /// Ends the run in all processes that still listen.
    fn give_up(&mut self, plan: &Plan, listening: &mut Listening, why: &str) {
        let ends = listening.ends();
        ends.troubles.note(plan.seconds(clock::monotonic()), why.to_owned());
        ends.given_up.get_or_insert_with(|| why.to_owned());
        self.tell_all(&ToWorker::Stop(plan.run));
    }

    /// Whoever is gone is heard of by its end.
    fn tell_all(&mut self, message: &ToWorker) {
        for nth in 0..self.size() {
            drop(self.tell(nth, message));
        }
    }
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stand {
    Producing,
    Settled,
    Ended,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for Worker { mut process, mut input, .. } in self.workers.drain(..) {
            // The end of its input is the end of a worker; one that hangs is ended.
            drop(input.flush());
            drop(input);
            let until = Instant::now() + Duration::from_secs(2);
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
            drop(process.kill());
            drop(process.wait());
        }
    }
}
