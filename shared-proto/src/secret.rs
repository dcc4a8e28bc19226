//! A value that cannot print itself. Wiped when dropped.

use std::fmt;
use std::sync::Arc;
use zeroize::Zeroize as _;

/// A secret text: `Debug` prints its kind only, there is no `Display`, and its bytes are wiped on drop.
#[derive(Clone)]
pub struct Secret(Inner);

/// Memory that keeps a secret better than the heap does, and wipes it. Copies of a secret in it are references.
pub trait Keep: Send + Sync {
    /// The secret.
    fn text(&self) -> &str;
}

#[derive(Clone)]
enum Inner {
    Plain(Plain),
    Kept(Arc<dyn Keep>),
}

#[derive(Clone, Default)]
struct Plain(String);

// === impl Secret ===

impl Secret {
    /// Takes the value over.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Inner::Plain(Plain(value.into())))
    }
    /// One that is kept elsewhere.
    pub fn kept(keep: Arc<dyn Keep>) -> Self {
        Self(Inner::Kept(keep))
    }
    /// The value itself: only where it is used, never into an error, a log or argv.
    pub fn expose(&self) -> &str {
        match &self.0 {
            Inner::Plain(plain) => &plain.0,
            Inner::Kept(keep) => keep.text(),
        }
    }
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new(String::new())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::new)
    }
}
impl serde::Serialize for Secret {
    /// For the one place that is made to hold it: the credentials file.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;
    #[test]
    fn debug_does_not_print_the_value() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([secret])");
    }
    #[test]
    fn one_that_is_kept_elsewhere_is_the_same_secret() {
        struct Elsewhere;
        impl super::Keep for Elsewhere {
            fn text(&self) -> &'static str {
                "hunter2"
            }
        }
        let kept = Secret::kept(std::sync::Arc::new(Elsewhere));
        assert_eq!(kept.clone(), Secret::new("hunter2"));
        assert_ne!(kept, Secret::default());
        assert_eq!((kept.is_empty(), format!("{kept:?}")), (false, "[secret]".to_owned()));
    }
}
