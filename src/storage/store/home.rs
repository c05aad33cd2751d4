//! The directories of a store, which somebody may have removed while it is in use: then they are made again, and nothing of
//! what was known counts any more.

use std::sync::Arc;

use super::super::backing::disk::DiskFiles;
use super::super::resume::Directory;
use super::super::{CacheDir, StorageError, io_error};
use super::{Look, Store, lock};

/// What has to move when a directory is made again.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) cache: CacheDir,
    pub(super) files: Arc<DiskFiles>,
    pub(super) notes: Arc<Directory>,
}

impl Store {
    /// Looks whether the directories are where their names lead; what is gone is made again, and all pieces are to be
    /// checked then.
    ///
    /// # Errors
    /// When that is not possible, or another process has the slot by now.
    pub(super) fn settle_home(&self) -> Result<(), StorageError> {
        let Some(home) = &self.home else { return Ok(()) };
        let failed = io_error("open", &self.slot.path);
        if home.cache.settle()?
            && let Some(budget) = &self.budget
        {
            budget.settle();
        }
        let taken = home.cache.retake(&self.slot)?;
        if !taken && self.slot.has_data(home.files.directory().map_err(&failed)?).map_err(&failed)? {
            return Ok(());
        }
        let mut warnings = Vec::new();
        let data = self.slot.data_dir(&mut warnings).map_err(&failed)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        home.files.move_to(data).map_err(&failed)?;
        home.notes.move_to(self.slot.dir().map_err(&failed)?);
        // What lies there may be of any time: a disk that was taken away has lost what it had not written.
        lock(&self.resume).start_over().map_err(self.resume_error())?;
        if let Err(error) = super::open::keep_info(&*self.notes, &self.info) {
            tracing::debug!(%error, "the info dictionary is not kept");
        }
        for file in self.layout.files().filter(|&file| !self.layout.is_padding(file)) {
            match self.tracks.look(file, &self.backing) {
                Ok(Look::Altered) => self.altered(file),
                Ok(Look::Same) | Err(_) => self.distrust(file),
            }
        }
        tracing::info!(path = %self.slot.path.display(), "the cache directory is made again");
        Ok(())
    }

    /// Whether the slot is where its name leads, as far as that can be told.
    pub(super) fn is_at_home(&self) -> bool {
        let Some(home) = &self.home else { return true };
        let data = || home.files.directory().and_then(|data| self.slot.has_data(data));
        home.cache.is_named(&self.slot).unwrap_or(true) && data().unwrap_or(true)
    }
}
