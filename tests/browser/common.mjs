// What the walks in a real browser share: pages that note every complaint, the promise that none talks to another host,
// axe-core's judgement, pictures. Owns no walk.
//   node tests/browser/<walk>.mjs BASE_URL OUT_DIR
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(new URL('../../src/hub/console/package.json', import.meta.url));
const { chromium } = require('playwright-core');
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

export const WAIT_MS = 30_000;
const SIZES = { desk: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };
const ARGS = ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
export const SOFTWARE_GL = ['--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'];
export const NO_GL = ['--disable-gpu', '--disable-3d-apis'];

export const [base, out] = process.argv.slice(2);
if (!base || !out) {
  console.error(`usage: node ${process.argv[1]} BASE_URL OUT_DIR`);
  process.exit(2);
}
export const origin = new URL(base).origin;
mkdirSync(out, { recursive: true });

export const complaints = [];
export const faults = new Set();
export const must = (truth, message) => {
  if (!truth) throw new Error(message);
};

/** A page in a context of its own. */
export async function open(browser, look) {
  const context = await contextOf(browser, look);
  return { context, page: await pageOf(context, look) };
}

export async function contextOf(browser, { size, lang = 'vi', theme = 'dark' }) {
  const context = await browser.newContext({ viewport: SIZES[size], hasTouch: size === 'phone', isMobile: size === 'phone', reducedMotion: 'reduce' });
  context.setDefaultTimeout(WAIT_MS);
  await context.addInitScript(([l, c]) => {
    if (!localStorage.getItem('camnet.lang')) localStorage.setItem('camnet.lang', l);
    if (!localStorage.getItem('camnet.theme')) localStorage.setItem('camnet.theme', c);
  }, [lang, theme]);
  return context;
}

/** A page that notes every word of complaint and every request that leaves the hub. */
export async function pageOf(context, { size, lang = 'vi', theme = 'dark', quietly = false }) {
  const page = await context.newPage();
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (!['data:', 'blob:'].includes(url.protocol) && url.origin !== origin) complaints.push(`request to another host: ${request.url()}`);
  });
  page.on('pageerror', (error) => complaints.push(`page error (${size} ${lang} ${theme}): ${error.message}`));
  page.on('console', (message) => {
    const ours = /Failed to load resource/.test(message.text()) && quietly;
    // Chromium's remarks on its own software drawing are not the page's.
    const driver = /GL Driver Message|GPU stall/.test(message.text());
    if ((message.type() === 'error' || (message.type() === 'warning' && !driver)) && !ours) complaints.push(`console ${message.type()} (${size} ${lang} ${theme}): ${message.text()}`);
  });
  return page;
}

/** Waits for a condition in the page; says what was waited for when it does not come. */
export const until = (page, what, condition, argument = null) =>
  page.waitForFunction(condition, argument, { timeout: WAIT_MS }).catch((error) => {
    throw new Error(`waited in vain until ${what}: ${error.message.split('\n')[0]}`);
  });

export const shot = (page, name) => page.screenshot({ path: join(out, `${name}.png`) });

/** Waits until everything in sight that will be drawn has been: pictures, type, map. */
export async function drawn(page) {
  await page.evaluate(() => document.fonts.ready);
  // Drawing without a graphics card takes its time; a map that lies under the player draws when it is seen.
  await until(page, 'the map is drawn', () => {
    const map = document.querySelector('.gl');
    return !map || map.dataset.drawn || getComputedStyle(map).visibility === 'hidden';
  });
  await until(page, 'the pictures in sight have come', () => [...document.images].filter((i) => i.getBoundingClientRect().top < innerHeight).every((i) => i.complete));
}

/** What axe-core holds against the screen; only what makes a page hard or impossible to use counts. */
export async function axe(page, name, wanted = true) {
  if (!wanted) return;
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];
    const { violations } = await globalThis.axe.run(document, { runOnly: tags, resultTypes: ['violations'] });
    return violations
      .filter((v) => v.impact === 'serious' || v.impact === 'critical')
      .map((v) => `${v.id} (${v.impact}): ${v.nodes.slice(0, 3).map((n) => `${n.target.join(' ')} ${n.failureSummary?.split('\n')[1]?.trim() ?? ''}`).join(' | ')}`);
  });
  for (const fault of found) faults.add(`${name}: ${fault}`);
}
export const problem = (status, title, detail) => ({
  status,
  contentType: 'application/problem+json',
  body: JSON.stringify({ type: 'about:blank', title, status, detail }),
});

const browsers = [];
export const launch = async (args) => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: [...ARGS, ...args] });
  browsers.push(browser);
  return browser;
};

/** Runs a walk, and ends the process with what came of it, at the latest after so long. */
export async function run(name, most_ms, walk) {
  const deadline = setTimeout(() => {
    console.error(`${name}: not finished after ${most_ms / 1000} s`);
    process.exit(1);
  }, most_ms);
  try {
    await walk();
    must(faults.size === 0, `axe-core found serious faults:\n  ${[...faults].join('\n  ')}`);
    must(complaints.length === 0, `the page complained:\n  ${[...new Set(complaints)].join('\n  ')}`);
    console.log(`${name}: all good, pictures in ${out}`);
  } catch (error) {
    console.error(`${name}: FAILED: ${error.message}`);
    if (complaints.length) console.error(`complaints:\n  ${[...new Set(complaints)].join('\n  ')}`);
    process.exitCode = 1;
  } finally {
    clearTimeout(deadline);
    for (const browser of browsers) await browser.close();
  }
}
