// Reads files that may hang, as those of a network do: a read that hangs keeps one of the few threads that all files and look-ups
// of the process share (libuv's, four by default).
//
// Must never have more than one of its files being read at a time, wait for one without end, or show what is in one.

import { readFile } from 'node:fs/promises';

import { LATE, within } from './clock.js';
import { TokenBrokerError } from './errors.js';

// Files that take longer to read are not waited for.
export const READ_MS = 2_000;

export const unusable = (what, why) => new TokenBrokerError({
  code: 'FAILED_PRECONDITION',
  text: `${what} can't be used: ${why}`,
});

export class Reader {
  #files;
  #clock;
  #readFile;
  // The contents to come, while the files are read; of which the one at hand; and whether somebody has given up waiting.
  #underWay = null;
  #current;
  #hangs = false;

  // `files` has null where there is none. `read` is for tests.
  constructor(files, clock, read = readFile) {
    this.#files = files;
    this.#clock = clock;
    this.#readFile = read;
  }

  // What the files hold. Nobody waits for those that somebody has waited for in vain, until they have been read after all.
  async read() {
    if (!this.#hangs) {
      this.#underWay ??= this.#all().finally(() => {
        this.#underWay = null;
        this.#hangs = false;
      });
      const contents = await within(this.#clock, this.#underWay, READ_MS);
      if (contents !== LATE) return contents;
      this.#hangs = true;
    }
    throw unusable(this.#current, 'reading it takes too long: see to the file system');
  }

  // One after the other: each may keep a thread.
  async #all() {
    const contents = [];
    for (const file of this.#files) contents.push(file ? await this.#one(file) : null);
    return contents;
  }

  async #one(file) {
    this.#current = file;
    try {
      return await this.#readFile(file, 'utf8');
    } catch (error) {
      throw unusable(file, `${error.code ?? error}: see that it is there and that this process may read it`);
    }
  }
}
