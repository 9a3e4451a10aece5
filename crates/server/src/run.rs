//! The admitted jobs of a request, as one stream of events.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use diffusion::{RgbImage, StepReport};
use scheduler::{Generated, JobError, Place, Ticket, Update};

/// The jobs of one request, one a picture. Dropping it cancels the unfinished ones.
#[derive(Debug)]
pub(crate) struct Run {
    pictures: Vec<PictureTicket>,
    /// The picture that is polled first next time.
    turn: usize,
}

#[derive(Debug)]
struct PictureTicket {
    /// `None` once the job has ended.
    ticket: Option<Ticket>,
    /// Index of the latest step.
    step_index: usize,
    /// Steps since the job last started.
    steps_taken: usize,
}

/// An event of one of the request's pictures. Pictures are numbered from 0 in the order of their seeds.
#[derive(Debug)]
pub(crate) enum RunEvent {
    /// A worker has started the job.
    Started,
    /// A denoising step is done.
    Stepped { image_index: usize, report: StepReport },
    /// The job runs again from its start: the last `steps_taken` reported steps are void. Previews are not repeated.
    Restarted { image_index: usize, steps_taken: usize },
    /// The picture as forecast at step `step_index`.
    Preview { image_index: usize, partial_image_index: usize, step_index: usize, image: RgbImage },
    /// The picture is finished.
    Finished { image_index: usize, generated: Box<Generated> },
}

impl Run {
    /// A run of the jobs behind `tickets`, one a picture.
    pub(crate) fn new(tickets: Vec<Ticket>) -> Self {
        let pictures =
            tickets.into_iter().map(|ticket| PictureTicket { ticket: Some(ticket), step_index: 0, steps_taken: 0 });
        Run { pictures: pictures.collect(), turn: 0 }
    }

    /// Queue position of each picture.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.pictures.iter().filter_map(|picture| Some(picture.ticket.as_ref()?.place())).collect()
    }

    /// The next event; `None` once every picture is finished or one has failed. A failure cancels the other jobs.
    pub(crate) async fn next(&mut self) -> Option<Result<RunEvent, JobError>> {
        let (image_index, update) = poll_fn(|cx| self.poll_update(cx)).await?;
        Some(match update {
            Update::Started { .. } => Ok(RunEvent::Started),
            Update::Stepped(report) => {
                let picture = &mut self.pictures[image_index];
                picture.step_index = report.step_index;
                picture.steps_taken += 1;
                Ok(RunEvent::Stepped { image_index, report })
            }
            Update::Restarted => {
                let steps_taken = std::mem::take(&mut self.pictures[image_index].steps_taken);
                Ok(RunEvent::Restarted { image_index, steps_taken })
            }
            Update::Preview { index, image } => {
                let step_index = self.pictures[image_index].step_index;
                Ok(RunEvent::Preview { image_index, partial_image_index: index, step_index, image })
            }
            Update::Done(Ok(generated)) => Ok(RunEvent::Finished { image_index, generated: Box::new(generated) }),
            Update::Done(Err(err)) => {
                self.pictures.clear();
                Err(err)
            }
        })
    }

    /// Polls the pictures in rotation, so that no picture delays the events of another.
    fn poll_update(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Update)>> {
        let count = self.pictures.len();
        let mut is_over = true;
        for image_index in (self.turn..self.turn + count).map(|i| i % count) {
            let picture = &mut self.pictures[image_index];
            let Some(ticket) = &mut picture.ticket else { continue };
            let polled = pin!(ticket.next()).poll(cx);
            match polled {
                Poll::Ready(Some(update)) => {
                    self.turn = image_index + 1;
                    return Poll::Ready(Some((image_index, update)));
                }
                Poll::Ready(None) => picture.ticket = None,
                Poll::Pending => is_over = false,
            }
        }
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }
}
