// Writes package.json and package-lock.json of a project whose one dependency is the built package, whose own dependencies are as
// the package's lock file pins them: node lock.cjs LOCK TGZ
//
// Must never name another version than the lock file does.
'use strict';

const { readFileSync, writeFileSync } = require('node:fs');

const [file, tgz] = process.argv.slice(2);
const { packages, lockfileVersion } = JSON.parse(readFileSync(file, 'utf8'));
const { name, version, dependencies, engines } = packages[''];
const project = { name: 'conformance', version: '0.0.0', private: true, dependencies: { [name]: `file:${tgz}` } };
const pinned = Object.entries(packages).filter(([path, { dev }]) => path !== '' && !dev);
const lock = {
  name: project.name,
  version: project.version,
  lockfileVersion,
  requires: true,
  packages: {
    '': { name: project.name, version: project.version, dependencies: project.dependencies },
    ...Object.fromEntries(pinned),
    [`node_modules/${name}`]: { version, resolved: `file:${tgz}`, dependencies, engines },
  },
};
writeFileSync('package.json', `${JSON.stringify(project, null, 2)}\n`);
writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`);
