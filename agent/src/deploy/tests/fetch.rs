//! How a content comes to the disk: goes on where it broke off, not faster than it
//! may, no more than it should have, and nothing that is another.

use std::fs;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use data_encoding::HEXLOWER;
use protocol::ErrorCode;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::deploy::fetch::{Chunks, Content, Download, FetchError, Fetcher, download};
use crate::domain::deployment::machine::{Class, StepError};

const STALL: Duration = Duration::from_secs(60);
const CHUNK_BYTES: usize = 1000;

/// What a controller does with a request.
#[derive(Clone, Copy)]
enum Answer {
    Whole,
    BreaksOffAfter(usize),
    Hangs,
    Absent,
    Refuses,
}

/// A controller that has one content, and remembers from where it was asked for it.
struct Controller {
    body: Vec<u8>,
    answer: Answer,
    asked: Mutex<Vec<u64>>,
}

struct Arriving {
    body: Vec<u8>,
    answer: Answer,
}

impl Chunks for Arriving {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        if matches!(self.answer, Answer::Hangs) {
            std::future::pending::<()>().await;
        }
        if self.body.is_empty() {
            return match self.answer {
                Answer::BreaksOffAfter(_) => Err(FetchError::Unreachable("gone".to_owned())),
                Answer::Whole | Answer::Hangs | Answer::Absent | Answer::Refuses => Ok(None),
            };
        }
        let rest = self.body.split_off(self.body.len().min(CHUNK_BYTES));
        Ok(Some(std::mem::replace(&mut self.body, rest)))
    }

    fn sha256(&self) -> Option<String> {
        None
    }
}

impl Fetcher for Controller {
    type Chunks = Arriving;

    async fn open(&self, _: &Content, offset: u64) -> Result<Arriving, FetchError> {
        self.asked.lock().unwrap().push(offset);
        let mut body = self.body[usize::try_from(offset).unwrap()..].to_vec();
        match self.answer {
            Answer::Absent => return Err(FetchError::NotFound("none".to_owned())),
            Answer::Refuses => return Err(FetchError::Refused("revoked".to_owned())),
            Answer::BreaksOffAfter(bytes) => body.truncate(bytes),
            Answer::Whole | Answer::Hangs => {}
        }
        Ok(Arriving {
            body,
            answer: self.answer,
        })
    }
}

/// A release of 5000 bytes that a node wants.
struct World {
    controller: Controller,
    folder: TempDir,
    sha256: String,
    bytes_max: u64,
    rate: Option<NonZeroU64>,
}

impl World {
    fn new() -> Self {
        let body: Vec<u8> = (0..5000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let hash = ring::digest::digest(&ring::digest::SHA256, &body);
        Self {
            controller: Controller {
                body,
                answer: Answer::Whole,
                asked: Mutex::default(),
            },
            folder: TempDir::new().unwrap(),
            sha256: HEXLOWER.encode(hash.as_ref()),
            bytes_max: 5000,
            rate: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("incoming").join(&self.sha256)
    }

    async fn download(&self) -> Result<(), StepError> {
        let wanted = Download {
            content: &Content::Release(self.sha256.clone()),
            sha256: &self.sha256,
            bytes_max: self.bytes_max,
            bytes_per_s_max: self.rate,
            stall: STALL,
        };
        download(&self.controller, wanted, &self.path(), &|_| {}).await
    }

    async fn fails(&self, code: ErrorCode, class: Class) -> StepError {
        let error = self.download().await.unwrap_err();
        assert_eq!((error.code, error.class), (code, class), "{}", error.detail);
        error
    }
}

#[tokio::test]
async fn a_release_that_breaks_off_goes_on_where_it_was() {
    let mut world = World::new();
    world.controller.answer = Answer::BreaksOffAfter(2000);
    world
        .fails(ErrorCode::PeerUnreachable, Class::Passing)
        .await;
    assert_eq!(fs::metadata(world.path()).unwrap().len(), 2000);
    world
        .fails(ErrorCode::PeerUnreachable, Class::Passing)
        .await;
    world.controller.answer = Answer::Whole;
    world.download().await.unwrap();
    assert_eq!(fs::read(world.path()).unwrap(), world.controller.body);
    assert_eq!(*world.controller.asked.lock().unwrap(), [0, 2000, 4000]);
    // What is whole is asked for once more, from its end, and nothing comes.
    world.download().await.unwrap();
    assert_eq!(fs::metadata(world.path()).unwrap().len(), 5000);
}

#[tokio::test(start_paused = true)]
async fn a_release_comes_no_faster_than_it_may() {
    let mut world = World::new();
    world.rate = NonZeroU64::new(500);
    let began = Instant::now();
    world.download().await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    world.rate = None;
    fs::remove_file(world.path()).unwrap();
    let began = Instant::now();
    world.download().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_falls_silent_is_not_waited_for() {
    let mut world = World::new();
    world.controller.answer = Answer::Hangs;
    let began = Instant::now();
    let error = world
        .fails(ErrorCode::PeerUnreachable, Class::Passing)
        .await;
    assert_eq!(began.elapsed(), STALL);
    assert!(
        error.detail.contains("no byte came for 60 s"),
        "{}",
        error.detail
    );
}

/// Were the bound not there, the bytes would be right in the end.
#[tokio::test]
async fn no_more_is_read_than_the_manifest_says() {
    let mut world = World::new();
    world.bytes_max = 2500;
    let error = world.fails(ErrorCode::ReleaseInvalid, Class::Passing).await;
    assert!(error.detail.contains(&world.sha256), "{}", error.detail);
    assert!(!world.path().exists());
}

#[tokio::test]
async fn another_content_is_not_kept() {
    let mut world = World::new();
    world.controller.body[4999] ^= 1;
    let error = world.fails(ErrorCode::ReleaseInvalid, Class::Passing).await;
    assert!(error.detail.contains(&world.sha256), "{}", error.detail);
    assert!(!world.path().exists());
    // Nor is one that began right: it is asked for from nothing again.
    world.controller.body[4999] ^= 1;
    world.download().await.unwrap();
    assert_eq!(*world.controller.asked.lock().unwrap(), [0, 0]);
}

#[tokio::test]
async fn a_release_that_is_not_given_out_is_not_asked_for_again() {
    for answer in [Answer::Absent, Answer::Refuses] {
        let mut world = World::new();
        world.controller.answer = answer;
        world.fails(ErrorCode::ReleaseNotFound, Class::Final).await;
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_told() {
    let world = World::new();
    fs::write(world.folder.path().join("incoming"), "a file").unwrap();
    let error = world.fails(ErrorCode::UpdateFailed, Class::Final).await;
    assert!(error.detail.contains("kept on disk"), "{}", error.detail);
}
