//! Versions of one kind: how each is made from the one that is stored.

use coracle_api::Object;

/// How one served version of a built-in kind is made from the stored one, and back.
pub struct Conversion {
    pub from_storage: fn(&mut Object),
    pub to_storage: fn(&mut Object),
}

/// How a served version is made from the stored one, and back. `apiVersion` and `kind` included.
pub trait Convert: Send + Sync {
    /// From the stored version.
    fn read(&self, object: &mut Object);

    /// To the stored version.
    fn write(&self, object: &mut Object);
}

// === impl Conversion ===

impl Convert for Conversion {
    fn read(&self, object: &mut Object) {
        (self.from_storage)(object);
    }

    fn write(&self, object: &mut Object) {
        (self.to_storage)(object);
    }
}
