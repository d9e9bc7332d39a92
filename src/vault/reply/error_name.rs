//! Which of the documented refusals an answer names, in whatever form it has.
//!
//! Must never prefer a milder word to a graver one: a refusal that is taken for an outage is repeated, and locks an account.

use super::{
    Class, Fields,
    documented::{self, by_id, by_name},
    fields,
};

/// The field that holds the vault's number of an error.
const ERROR_ID: &str = "errorId";
/// Most characters between that name and its number, as in `<errorId>11</errorId>` or `errorId = "11"`.
const SEPARATORS_MAX: usize = 8;

/// The class of what the fields name, if any of it is known: `errorId`, else `error`, else what v2 has in their place.
///
/// `errorId` 0 stands for anything, so it counts only where nothing else is said. A name that stands twice counts as the graver.
pub(super) fn in_fields(fields: &Fields<'_>) -> Option<Class> {
    let numbers = fields.all(ERROR_ID).filter_map(|raw| by_id(&fields::number(raw)?.to_string()));
    let id = gravest(numbers);
    if let Some(class) = id
        && !matches!(class, Class::Transient(_))
    {
        return Some(class);
    }
    let named = |name: String| by_name(&name);
    let errors: Vec<_> = fields.all("error").filter_map(fields::string).collect();
    let error = gravest(errors.iter().cloned().filter_map(named));
    let key = || gravest(fields.list("errors").iter().filter_map(|error| error.string("key")).filter_map(named));
    let status =
        || gravest(fields.all("status").filter_map(fields::string).filter_map(|status| documented::by_v2_status(&status)));
    // A name that nobody knows is not made harmless by a number that stands for anything.
    let says_nothing = fields.all("error").all(|raw| fields::string(raw).is_some_and(|name| name.is_empty()));
    error.or_else(key).or_else(status).or(id.filter(|_| says_nothing))
}

/// The class of what a text names anywhere: in an object within an object, in XML, in a form, or in JSON that broke off.
pub(super) fn in_text(text: &str) -> Option<Class> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    // Those without an underscore are words of any language.
    let names = words.filter(|word| word.contains('_')).filter_map(by_name);
    gravest(names.chain(numbers(text)).filter(|class| !matches!(class, Class::Transient(_))))
}

/// The classes of the numbers that follow the name `errorId`.
fn numbers(text: &str) -> impl Iterator<Item = Class> {
    text.match_indices(ERROR_ID).filter_map(|(at, name)| {
        let behind = text.get(at + name.len()..)?;
        let from = behind.find(|char: char| char.is_ascii_alphanumeric()).filter(|from| *from <= SEPARATORS_MAX)?;
        let number = behind.get(from..)?;
        // One that goes on, or may, is another number.
        let end = number.find(|char: char| !char.is_ascii_digit())?;
        let (digits, rest) = number.split_at_checked(end)?;
        if rest.starts_with(|char: char| char.is_alphanumeric() || char == '.') {
            None
        } else {
            by_id(digits.trim_start_matches('0'))
        }
    })
}

fn gravest(classes: impl Iterator<Item = Class>) -> Option<Class> {
    classes.max_by_key(|class| match class {
        Class::Refused(_) => 4,
        Class::Throttled(_) => 3,
        Class::Undocumented => 2,
        Class::Transient(_) => 1,
        Class::Senseless(_) => 0,
    })
}
