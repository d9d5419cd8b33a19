//! The signals that can starve a node, with the resource behind each and the condition that it raises.
//!
//! Pure, one flat table. Names are Kubernetes' own.

use std::{collections::BTreeSet, fmt};

/// What is measured. The order is the one in which shortages are dealt with: memory before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// The node's memory that is not in the working set.
    MemoryAvailable,
    /// Bytes of the file system with volumes and the node's own data.
    NodefsAvailable,
    /// Its inodes.
    NodefsInodesFree,
    /// Bytes of the file system of images.
    ImagefsAvailable,
    /// Its inodes.
    ImagefsInodesFree,
    /// Process ids.
    PidAvailable,
}

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes of disk.
    EphemeralStorage,
    /// Inodes.
    Inodes,
    /// Process ids.
    Pids,
}

/// What the Node's status says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Memory is short.
    MemoryPressure,
    /// Disk or inodes are short.
    DiskPressure,
    /// Process ids are short.
    PidPressure,
}

/// The conditions that hold now.
pub type Pressure = BTreeSet<Condition>;

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The signal of that name.
    pub fn parse(name: &str) -> Option<Signal> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }

    /// What runs short.
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodefsAvailable | Self::ImagefsAvailable => Resource::EphemeralStorage,
            Self::NodefsInodesFree | Self::ImagefsInodesFree => Resource::Inodes,
            Self::PidAvailable => Resource::Pids,
        }
    }

    /// What the Node's status says then.
    pub fn condition(self) -> Condition {
        match self.resource() {
            Resource::Memory => Condition::MemoryPressure,
            Resource::EphemeralStorage | Resource::Inodes => Condition::DiskPressure,
            Resource::Pids => Condition::PidPressure,
        }
    }

    /// True if it is about the file system of images.
    pub fn is_of_images(self) -> bool {
        matches!(self, Self::ImagefsAvailable | Self::ImagefsInodesFree)
    }
}

impl Resource {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

impl Condition {
    /// All of them.
    pub const ALL: [Condition; 3] = [Self::MemoryPressure, Self::DiskPressure, Self::PidPressure];

    /// Its type in the Node's status.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryPressure => "MemoryPressure",
            Self::DiskPressure => "DiskPressure",
            Self::PidPressure => "PIDPressure",
        }
    }

    /// The reason and the message of the Node's condition.
    pub fn words(self, holds: bool) -> (&'static str, &'static str) {
        match (self, holds) {
            (Self::MemoryPressure, true) => {
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
            }
            (Self::MemoryPressure, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            (Self::DiskPressure, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Self::DiskPressure, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Self::PidPressure, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            (Self::PidPressure, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        }
    }

    /// The reason of the Node's event when it comes or goes.
    pub fn event(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::MemoryPressure, true) => "NodeHasInsufficientMemory",
            (Self::MemoryPressure, false) => "NodeHasSufficientMemory",
            (Self::DiskPressure, true) => "NodeHasDiskPressure",
            (Self::DiskPressure, false) => "NodeHasNoDiskPressure",
            (Self::PidPressure, true) => "NodeHasInsufficientPID",
            (Self::PidPressure, false) => "NodeHasSufficientPID",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
