//! Captures: one at a time, by programs that take the place of the usual ones
//! for as long as it takes.

mod recorder;

use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, spawn_blocking},
};
use tracing::{error, info, warn};

use self::recorder::{Recorded, Recorder};
use super::{Agent, background::Background};
use crate::{
    api::{CaptureError, CaptureReceiver, CaptureRequest},
    capture::{CaptureNames, Filter, Writer},
    dataplane::{Captures, Capturing, LoadError},
    registry::Clock,
};

/// Parts of the answer that wait to be sent.
const PARTS: usize = 4;

type Answer = oneshot::Sender<Result<CaptureReceiver, CaptureError>>;

/// The capture under way, if there is one.
#[derive(Default)]
pub(super) struct Capture {
    /// Programs are being loaded for it.
    pub(super) loading: Background<Result<(Capturing, Captures), LoadError>>,
    asked: Option<(CaptureRequest, Answer)>,
    /// They run.
    pub(super) recording: Background<Recorded>,
    /// Ends the recording when it is used or dropped.
    stop: Option<oneshot::Sender<()>>,
}

impl Capture {
    fn is_busy(&self) -> bool {
        self.loading.is_busy() || self.recording.is_busy()
    }
}

impl Agent {
    /// Begins to load the programs for a capture, aside from the agent's task.
    pub(super) fn capture(&mut self, request: CaptureRequest, answer: Answer) {
        match self.load_capturing(&request) {
            Ok(()) => self.capture.asked = Some((request, answer)),
            // Whoever asked may have gone; so below.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn load_capturing(&mut self, request: &CaptureRequest) -> Result<(), CaptureError> {
        if self.capture.is_busy() {
            return Err(CaptureError::Busy);
        }
        request.check()?;
        let filter = Filter::parse(&request.filter)?;
        let settings = filter.resolve(&self.names(), request.snap)?;
        let model = self.dataplane.capturing_model()?;
        let load = spawn_blocking(move || model.load(&settings));
        self.capture.loading.start(load);
        Ok(())
    }

    /// Goes on once the programs are loaded.
    pub(super) fn begin_capture(
        &mut self,
        loaded: Result<Result<(Capturing, Captures), LoadError>, JoinError>,
    ) {
        let Some((request, answer)) = self.capture.asked.take() else {
            return;
        };
        let (sender, receiver) = mpsc::channel(PARTS);
        let loaded = loaded.map_err(|panic| CaptureError::Panic(panic.to_string()));
        let begun = loaded.and_then(|loaded| {
            let recorder = self.start_capturing(&request, loaded?)?;
            let (stop, stopped) = oneshot::channel();
            let recording = tokio::spawn(recorder.run(sender, stopped));
            self.capture.recording.start(recording);
            self.capture.stop = Some(stop);
            Ok(receiver)
        });
        match &begun {
            Ok(_) => info!(filter = request.filter, "a capture begins"),
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, "no capture");
            }
        }
        // Where nobody waits any more the recorder finds that out.
        drop(answer.send(begun));
    }

    fn start_capturing(
        &mut self,
        request: &CaptureRequest,
        (capturing, captures): (Capturing, Captures),
    ) -> Result<Recorder, CaptureError> {
        let now = Clock::read().map_err(CaptureError::Buffers)?;
        let interfaces = self.host.interfaces.iter();
        let names = CaptureNames {
            names: self.names(),
            interfaces: interfaces
                .map(|(&index, interface)| (index, interface.name.clone()))
                .collect(),
        };
        let monotonic = now.monotonic(std::time::Instant::now());
        let writer = Writer::new(names, request.snap, monotonic);
        let attached = self.dataplane.attached().into_keys().collect();
        let recorder = Recorder::new(request, captures, writer, attached);
        let recorder = recorder.map_err(CaptureError::Buffers)?;
        self.dataplane.begin_capture(capturing)?;
        Ok(recorder)
    }

    /// Puts the usual programs back, then lets whoever gets the capture know of
    /// its end.
    pub(super) fn end_capture(&mut self, recorded: Result<Recorded, JoinError>) {
        self.capture.stop = None;
        self.put_back();
        match recorded {
            Ok(recorded) => {
                recorded.log();
                tokio::spawn(recorded.finish());
            }
            Err(panic) => error!(%panic, "the capture has ended"),
        }
    }

    fn put_back(&mut self) {
        if let Err(error) = self.dataplane.end_capture() {
            let error = format!("{:#}", anyhow::Error::from(error));
            error!(error, "the programs that capture are still at work");
        }
    }

    /// Ends the capture under way before its time. It is over a moment later.
    pub(super) fn stop_capture(&mut self) -> Result<(), CaptureError> {
        if !self.capture.is_busy() {
            return Err(CaptureError::NotBusy);
        }
        // One that isn't loaded yet finds that nobody waits for it.
        self.capture.asked = None;
        self.capture.stop = None;
        Ok(())
    }

    /// Ends the capture under way before the agent ends.
    pub(super) async fn leave_capture(&mut self) {
        self.capture.asked = None;
        self.capture.stop = None;
        if self.capture.recording.is_busy() {
            let recorded = self.capture.recording.done().await;
            self.put_back();
            if let Ok(recorded) = recorded {
                recorded.log();
                recorded.finish().await;
            }
        }
    }
}
