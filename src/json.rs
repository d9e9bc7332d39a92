//! Pure: an object of JSON that somebody else wrote.
//!
//! Must never take a list for one, as a derived `Deserialize` does: it reads what stands in a list as the fields, one after the other.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A value that was written as an object, with names.
#[derive(Default)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Named(PhantomData))
    }
}

struct Named<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::Object;

    #[derive(Deserialize)]
    struct Outer {
        inner: Object<Inner>,
    }

    #[derive(Deserialize)]
    struct Inner {
        number: u8,
    }

    fn number(json: &str) -> Option<u8> {
        serde_json::from_str::<Object<Outer>>(json).ok().map(|Object(Outer { inner: Object(Inner { number }) })| number)
    }

    #[test]
    fn a_list_is_no_object() {
        assert_eq!(number(r#"{"inner":{"number":7},"more":[]}"#), Some(7));
        for other in [r"[[7]]", r#"[{"number":7}]"#, r#"{"inner":[7]}"#, r#"{"inner":null}"#, "7", "null"] {
            assert_eq!(number(other), None, "{other}");
        }
        assert_eq!(number(r#"{"inner":{"number":7,"number":8}}"#), None, "of two it can't be told which is meant");
    }
}
