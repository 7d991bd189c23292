//! Whom HTTPS and gRPC checks believe; read once and shared, because a machine may have thousands of checks.

use std::fmt;
use std::sync::{Arc, LazyLock};

use lictor_tls::dialer::{Dialer, Settings, Verify};
use parking_lot::Mutex;

/// The CAs that servers of checks are verified against. Clones share what was read.
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    settings: Settings,
    loaded: Mutex<[Option<Arc<Dialer>>; 2]>,
}

impl Trust {
    /// Trust as configured; files are read when the first check needs them.
    pub fn new(settings: Settings) -> Trust {
        Trust(Arc::new(Shared { settings, loaded: Mutex::default() }))
    }

    /// Has the files read again by the checks that run from now on.
    pub fn read_anew(&self) {
        *self.0.loaded.lock() = Default::default();
    }

    /// What dials with this trust. Files that cannot be read are tried again at the next run.
    pub(crate) fn dialer(&self, verify: Verify) -> Result<Arc<Dialer>, lictor_tls::Error> {
        let mut loaded = self.0.loaded.lock();
        let place = usize::from(verify == Verify::Nothing);
        if let Some(dialer) = &loaded[place] {
            return Ok(Arc::clone(dialer));
        }
        let dialer = Arc::new(Dialer::load(&Settings { verify, ..self.0.settings.clone() })?);
        loaded[place] = Some(Arc::clone(&dialer));
        Ok(dialer)
    }
}

impl Default for Trust {
    /// The CAs of the system, read once per process.
    fn default() -> Trust {
        static SYSTEM: LazyLock<Trust> = LazyLock::new(|| Trust::new(Settings::default()));
        SYSTEM.clone()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.0.settings).finish()
    }
}
