// Pure: text of others, as a person may see it.
//
// Must never let through what ends a line or steers a terminal, nor show a phone number in full.

// Digits of a number that are shown, at its end: as in the broker's log.
const SHOWN = 4;
// Control characters, formats, halves of pairs, and every space but the plain one.
const NOT_PLAIN = /(?! )[\p{C}\p{Z}]/gu;

// The text with whatever isn't plain by its number, as JSON writes it.
export function onOneLine(text) {
  const numbered = (char) => [...Array(char.length).keys()]
    .map((at) => `\\u${char.charCodeAt(at).toString(16).padStart(4, '0')}`).join('');
  return String(text).replace(NOT_PLAIN, numbered);
}

// The last digits of a number; of a short one none.
export function masked(number) {
  return `…${number.length > SHOWN ? onOneLine(number.slice(-SHOWN)) : ''}`;
}

// Whole seconds, but milliseconds below one; rounded up, so that no wait looks like none.
export function seconds(ms) {
  return ms < 1_000 ? `${Math.ceil(ms)} ms` : `${Math.ceil(ms / 1_000)} s`;
}
