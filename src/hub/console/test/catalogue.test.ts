// Tests of the words: both languages have the same keys and the same blanks, every key is used and exists,
// and no component shows a word that is not in the catalogue.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'svelte/compiler';

// The runner starts in the package's own directory.
const root = join(process.cwd(), 'src');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const catalogue = (lang: string) =>
  ['', 'fleet.'].map((part) => JSON.parse(read(`i18n/${part}${lang}.json`)) as Record<string, string>);
const [vi, en] = ['vi', 'en'].map((lang) => Object.assign({}, ...catalogue(lang)) as Record<string, string>);
const files = ['', 'components/', 'fleet/'].flatMap((folder) => readdirSync(join(root, folder)).map((name) => `${folder}${name}`));
const components = files.filter((n) => n.endsWith('.svelte'));
const sources = [...components, ...files.filter((n) => n.endsWith('.ts'))];

/** Names that are the same in every language. */
const NAMES = new Set(['camnet', 'J', 'K', 'L', 'N', 'P', 'Esc', 's']);
const SPOKEN = new Set(['title', 'aria-label', 'placeholder', 'alt', 'aria-valuetext', 'aria-description', 'label']);

test('each language has every key, with the same blanks', () => {
  const blanks = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((m) => m[1]).sort().join();
  assert.deepEqual(Object.keys(vi).filter((k) => !(k in en)), [], 'missing in English');
  assert.deepEqual(Object.keys(en).filter((k) => !(k in vi)), [], 'missing in Vietnamese');
  for (const key of Object.keys(vi)) {
    assert.ok(vi[key].trim() && en[key].trim(), `${key} is empty`);
    assert.equal(blanks(vi[key]), blanks(en[key]), `blanks of ${key}`);
  }
});

test('the technicians’ words are theirs alone', () => {
  for (const lang of ['vi', 'en']) {
    const [officers, technicians] = catalogue(lang).map(Object.keys);
    assert.deepEqual(officers.filter((key) => technicians.includes(key)), [], 'in both catalogues');
    assert.deepEqual(technicians.filter((key) => !key.startsWith('fleet.')), [], 'not of the fleet');
    // Their pages are loaded later; what is loaded at once can't show their words.
    const early = sources.filter((name) => !name.startsWith('fleet/')).map(read).join('\n');
    assert.ok(!/\bt\(\s*['`]fleet\./.test(early), 'an officer’s page shows a technician’s word');
  }
});

test('every trouble of the hub has a name and a next step', () => {
  const rust = readFileSync(join(process.cwd(), '../../../src/model/state.rs'), 'utf8');
  const list = /pub const ALL[^=]*= \[([^\]]*)\]/.exec(rust.slice(rust.indexOf('impl Trouble')))?.[1] ?? '';
  const names = [...list.matchAll(/Self::(\w+)/g)].map((m) => m[1].replace(/(?<!^)([A-Z])/g, '_$1').toLowerCase());
  assert.ok(names.length > 20, 'the list of troubles was not found');
  assert.deepEqual(names.filter((name) => !vi[`fleet.trouble.${name}`] || !vi[`fleet.next.${name}`]), []);
});

test('every key is used, and every used key exists', () => {
  const text = sources.map(read).join('\n');
  const quoted = new Set([...text.matchAll(/'([a-z]+\.[a-z0-9_.]+)'/g)].map((m) => m[1]));
  const patterns = [...text.matchAll(/`([a-z]+\.[a-z_.]*)\$\{/g)].map((m) => m[1]);
  const unused = Object.keys(vi).filter((k) => !quoted.has(k) && !patterns.some((p) => k.startsWith(p)));
  assert.deepEqual(unused, [], 'unused keys');
  const called = [...text.matchAll(/\bt\(\s*'([^']+)'/g)].map((m) => m[1]);
  assert.deepEqual(called.filter((k) => !(k in vi)), [], 'keys that do not exist');
});

test('no component shows a word that is not in the catalogue', () => {
  const letters = /\p{L}/u;
  const found: string[] = [];
  const note = (file: string, text: string) => {
    for (const word of text.split(/\s+/)) if (letters.test(word) && !NAMES.has(word)) found.push(`${file}: ${word}`);
  };
  // The page's tree is untyped on purpose: only text and a few attributes matter here.
  const walk = (file: string, node: any): void => {
    if (Array.isArray(node)) return node.forEach((n) => walk(file, n));
    if (!node || typeof node !== 'object') return;
    if (node.type === 'Attribute') {
      const parts = Array.isArray(node.value) ? node.value : [];
      if (SPOKEN.has(node.name)) for (const part of parts) if (part.type === 'Text') note(file, part.data);
      return;
    }
    if (node.type === 'Text') return note(file, node.data);
    for (const key of ['nodes', 'fragment', 'body', 'consequent', 'alternate', 'fallback', 'children', 'attributes', 'pending', 'then', 'catch'])
      if (key in node) walk(file, node[key]);
  };
  for (const name of components) walk(name, parse(read(name), { modern: true }).fragment);
  assert.deepEqual(found, []);
});
