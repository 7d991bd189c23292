//! How one kind of source is read: files strictly, HTTP bodies not.

use crate::tree::OneObjectList;

/// How one kind of source is read.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Where a list of objects is wanted: what one object alone means.
    pub lone_object: LoneObject,
    /// Where one object is wanted, and inside opaque maps: what a list of exactly one means.
    pub one_object_list: OneObjectList,
    /// What keys nobody asked for mean.
    pub unknown_keys: UnknownKeys,
    /// What `2.5` means where an integer is wanted.
    pub fractions: Fractions,
    /// What a duration may look like.
    pub durations: Durations,
    /// What the original's readers call a whole number of this source, for messages.
    pub whole_number: &'static str,
    /// Most bytes of what is read with [`Fields::name`](super::Fields::name).
    pub longest_name: usize,
    /// How a field is spelled in this kind of source.
    pub spell: fn(&'static str) -> Spelling,
}

/// Most bytes of a name or an id in a request. The original has no such limit, and nobody has such names; but they are
/// compared, kept, shown and signed in many places.
pub const LONGEST_NAME: usize = 4096;

/// What one object alone means where a list of objects is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoneObject {
    /// A list of one: HCL's blocks look like that.
    IsList,
    /// A mistake.
    IsError,
}

/// What keys mean that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKeys {
    /// Each is a problem: a typing error must not pass.
    Refused,
    /// Nothing: newer clients may send more than we know.
    Ignored,
}

/// What a fractional number means where an integer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fractions {
    /// A mistake.
    Refused,
    /// Its whole part.
    Truncated,
}

/// What a duration may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durations {
    /// Text only.
    Text,
    /// Text, or a number of nanoseconds.
    TextOrNanoseconds,
}

/// How a field is spelled in one kind of source. Case never counts; the exact spelling is preferred.
#[derive(Clone, Copy, Debug)]
pub struct Spelling {
    /// The spelling that wins, and that messages show.
    pub shown: &'static str,
    /// Others that are accepted as well.
    pub others: &'static [&'static str],
}

impl Spelling {
    /// One spelling only.
    pub const fn only(shown: &'static str) -> Spelling {
        Spelling { shown, others: &[] }
    }
}

impl Rules {
    /// Files and fragments in HCL.
    pub const HCL: Rules = Rules { lone_object: LoneObject::IsList, whole_number: "int", ..Rules::JSON };

    /// Files in JSON.
    pub const JSON: Rules = Rules {
        lone_object: LoneObject::IsError,
        one_object_list: OneObjectList::Unwrap,
        unknown_keys: UnknownKeys::Refused,
        fractions: Fractions::Refused,
        durations: Durations::Text,
        whole_number: "float64",
        longest_name: usize::MAX,
        spell: Spelling::only,
    };

    /// Bodies of HTTP requests.
    pub const HTTP: Rules = Rules {
        one_object_list: OneObjectList::Keep,
        unknown_keys: UnknownKeys::Ignored,
        fractions: Fractions::Truncated,
        durations: Durations::TextOrNanoseconds,
        longest_name: LONGEST_NAME,
        ..Rules::JSON
    };

    /// The same rules with another spelling of fields.
    pub const fn spelled(self, spell: fn(&'static str) -> Spelling) -> Rules {
        Rules { spell, ..self }
    }
}
