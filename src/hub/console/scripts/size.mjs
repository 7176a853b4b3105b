// Owns the promise of the first load: what a browser fetches before the page can be used, compressed, at most 500 kB.
// The map's code and the map's tiles come later and are not counted.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const MOST_KB = 500;
const dist = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist');
const page = readFileSync(join(dist, 'index.html'), 'utf8');
const named = [...page.matchAll(/(?:src|href)="\/([^"]+)"/g)].map((m) => m[1]);
// Fonts are compressed already; a page in Vietnamese needs all of them.
const fonts = readdirSync(join(dist, 'assets')).filter((name) => name.endsWith('.woff2')).map((name) => `assets/${name}`);
const weigh = (name) => (name.endsWith('.woff2') ? readFileSync(join(dist, name)).length : gzipSync(readFileSync(join(dist, name))).length);
const kb = ['index.html', ...named, ...fonts].reduce((sum, name) => sum + weigh(name), 0) / 1000;
console.log(`first load: ${kb.toFixed(0)} kB compressed (at most ${MOST_KB})`);
if (kb > MOST_KB) process.exit(1);
