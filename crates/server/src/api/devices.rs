//! What the workers run on, and where the parts of their models are.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

/// The device of a worker. What only the loaded model knows comes later, from the worker's thread; clones share it.
#[derive(Clone, Debug)]
pub struct WorkerDevice {
    /// As `--device` names it, e.g. `cuda:0`.
    pub device: String,
    /// What it is, if it is a GPU.
    pub gpu: Option<WorkerGpu>,
    parts: Arc<Mutex<Vec<ModelPart>>>,
}

/// What a GPU is, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkerGpu {
    /// What it calls itself.
    pub name: String,
    /// E.g. `9.0`.
    pub compute_capability: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// How attention is computed.
    pub attention: &'static str,
}

/// Where a part of a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelPart {
    /// In words: `text encoder`.
    pub name: &'static str,
    /// Bytes on the device all along.
    pub device_bytes: u64,
    /// Bytes in host memory that are carried to the device when their turn comes.
    pub host_bytes: u64,
}

impl WorkerDevice {
    /// The device of that name.
    pub fn new(device: impl Into<String>, gpu: Option<WorkerGpu>) -> Self {
        WorkerDevice { device: device.into(), gpu, parts: Arc::default() }
    }

    /// The worker has loaded its model, in these parts.
    pub fn holds(&self, parts: Vec<ModelPart>) {
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    pub(crate) fn parts(&self) -> Vec<ModelPart> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
