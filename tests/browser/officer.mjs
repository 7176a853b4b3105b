// An officer looks for footage, in a real browser against a running hub.
//   node tests/browser/officer.mjs BASE_URL OUT_DIR
// Owns: the walk from the two fields to a running video and back, the promise that the page talks to no other
// host, and pictures of every designed state. Knows nothing of the hub's data: names come from /api/v1/places.
// Failing states (denied, offline, …) are made by answering the browser's own requests, so any hub will do.
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(new URL('../../src/hub/console/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const WAIT_MS = 30_000;
const WHOLE_RUN_MS = 280_000;
const SIZES = { desk: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };
/** Every state once in each language; the three main screens in both sizes and both themes. */
const LOOKS = [
  { size: 'desk', lang: 'vi', theme: 'dark' },
  { size: 'desk', lang: 'en', theme: 'light', main: true },
  { size: 'phone', lang: 'vi', theme: 'dark', main: true },
  { size: 'phone', lang: 'en', theme: 'light' },
];
const MAIN = ['results', 'player', 'no-footage'];
const ARGS = ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const SOFTWARE_GL = ['--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'];
const NO_GL = ['--disable-gpu', '--disable-3d-apis'];

const [base, out] = process.argv.slice(2);
if (!base || !out) {
  console.error(`usage: node ${fileURLToPath(import.meta.url)} BASE_URL OUT_DIR`);
  process.exit(2);
}
const origin = new URL(base).origin;
mkdirSync(out, { recursive: true });

const complaints = [];
const must = (truth, message) => {
  if (!truth) throw new Error(message);
};

/** A page in a context of its own. */
async function open(browser, look) {
  const context = await contextOf(browser, look);
  return { context, page: await pageOf(context, look) };
}

async function contextOf(browser, { size, lang = 'vi', theme = 'dark' }) {
  const context = await browser.newContext({ viewport: SIZES[size], hasTouch: size === 'phone', isMobile: size === 'phone', reducedMotion: 'reduce' });
  context.setDefaultTimeout(WAIT_MS);
  await context.addInitScript(([l, c]) => {
    if (!localStorage.getItem('camnet.lang')) localStorage.setItem('camnet.lang', l);
    if (!localStorage.getItem('camnet.theme')) localStorage.setItem('camnet.theme', c);
  }, [lang, theme]);
  return context;
}

/** A page that notes every word of complaint and every request that leaves the hub. */
async function pageOf(context, { size, lang = 'vi', theme = 'dark', quietly = false }) {
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
const until = (page, what, condition, argument = null) =>
  page.waitForFunction(condition, argument, { timeout: WAIT_MS }).catch((error) => {
    throw new Error(`waited in vain until ${what}: ${error.message.split('\n')[0]}`);
  });

const shot = (page, name) => page.screenshot({ path: join(out, `${name}.png`) });
const settled = (page) => page.locator('#results:not([aria-busy=true])').waitFor();
const answers = (page) => page.waitForResponse((r) => r.url().includes('/api/v1/clips?') && r.ok());

/** Waits until everything in sight that will be drawn has been: pictures, type, map. */
async function drawn(page) {
  await page.evaluate(() => document.fonts.ready);
  // Drawing without a graphics card takes its time; a map that lies under the player draws when it is seen.
  await until(page, 'the map is drawn', () => {
    const map = document.querySelector('.gl');
    return !map || map.dataset.drawn || getComputedStyle(map).visibility === 'hidden';
  });
  await until(page, 'the pictures in sight have come', () => [...document.images].filter((i) => i.getBoundingClientRect().top < innerHeight).every((i) => i.complete));
}

/** A place and a time that the hub at hand has clips with video for. */
async function findSubject() {
  const get = async (path) => {
    const response = await fetch(new URL(path, origin), { signal: AbortSignal.timeout(WAIT_MS) });
    must(response.ok, `GET ${path} answered ${response.status}`);
    return response.json();
  };
  const places = await get('/api/v1/places');
  const to = new Date();
  const from = new Date(to.getTime() - 4 * 3600_000);
  const { clips } = await get(`/api/v1/clips?from=${from.toISOString()}&to=${to.toISOString()}&order=newest&limit=100`);
  const clip = clips.find((c) => c.links.video);
  must(clip, 'the hub has no clip with video in the last four hours');
  const site = places.sites.find((s) => s.id === clip.site.id);
  must(site, `the clip's site ${clip.site.id} is not among the places`);
  return { site, clip };
}

/** The walk itself: place, time, result, running video, keys, Back, language. */
async function walk(browser, subject, size) {
  const { context, page } = await open(browser, { size });
  await page.goto(base);
  await page.locator('#place').waitFor();
  if (size === 'desk') await page.locator('.site').first().waitFor();

  // Accents are not needed, and / reaches the field.
  if (size === 'desk') await page.keyboard.press('/');
  else await page.locator('#place').tap();
  must(await page.evaluate(() => document.activeElement?.id === 'place'), 'the place field has no focus');
  const plain = subject.site.name.normalize('NFD').replace(/\p{M}/gu, '').replace(/đ/g, 'd').replace(/Đ/g, 'D');
  await page.keyboard.type(plain);
  await page.locator('#place-list [role=option]').filter({ hasText: subject.site.name }).first().waitFor();
  await shot(page, `${size}-vi-dark-place-typing`);
  const first = answers(page);
  await page.locator('#place-list [role=option]').filter({ hasText: subject.site.name }).first().click();
  await first;
  must(new URL(page.url()).searchParams.has('at'), 'the chosen place is not in the address');

  await page.locator('#time').fill('4 giờ qua');
  await page.locator('#time-understood.good').waitFor();
  await shot(page, `${size}-vi-dark-time-typing`);
  const second = answers(page);
  await page.locator('#time').press('Enter');
  const answer = await (await second).json();
  must(new URL(page.url()).searchParams.get('last') === '14400', 'the chosen time is not in the address');
  await settled(page);
  await page.locator('[data-clip]').first().waitFor();
  must(answer.clips.length > 0, 'no clips were found');
  must(answer.coverage.length > 0, 'no coverage was answered');
  must((await page.locator('.track').count()) >= answer.coverage.length, 'the timeline does not show every camera');

  // The first clip with video plays.
  const card = page.locator('[data-clip][data-video]').first();
  const id = await card.getAttribute('data-clip');
  await card.click();
  await until(page, 'the video plays', () => (document.querySelector('video')?.currentTime ?? 0) > 0.2);
  must(new URL(page.url()).searchParams.get('clip') === id, 'the open clip is not in the address');
  const bare = await page.evaluate(() => {
    const box = document.querySelector('video').getBoundingClientRect();
    return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)?.tagName;
  });
  must(bare === 'VIDEO', `something lies over the picture: ${bare}`);

  if (size === 'desk') {
    const time = () => page.evaluate(() => document.querySelector('video').currentTime);
    await page.keyboard.press('k');
    await until(page, 'K pauses', () => document.querySelector('video').paused);
    // Frames are tried away from both ends, however slow this machine was until here.
    const before = await time();
    await page.keyboard.press('ArrowLeft');
    await until(page, 'the left arrow steps one frame back', (was) => Math.abs(document.querySelector('video').currentTime - was + 0.1) < 0.06, before);
    await page.keyboard.press('ArrowRight');
    await until(page, 'the right arrow steps one frame on', (was) => Math.abs(document.querySelector('video').currentTime - was) < 0.06, before);
    for (let left = 20; left > 0 && (await time()) > 0; left--) await page.keyboard.press('j');
    must((await time()) === 0, 'J does not go back to the beginning');
    await page.keyboard.press('l');
    await until(page, 'L plays', () => !document.querySelector('video').paused);
    await page.keyboard.press('l');
    await until(page, 'L again plays at double speed', () => document.querySelector('video').playbackRate === 2);
    await page.keyboard.press(' ');
    await until(page, 'space pauses', () => document.querySelector('video').paused);
    await page.keyboard.press('Escape');
    await page.locator('video').waitFor({ state: 'detached' });
    await page.locator(`[data-clip="${id}"]`).click();
    await page.locator('video').waitFor();
  }

  // A link to the clip can be shared: it opens in a page that knows nothing yet.
  const shared = await open(browser, { size });
  await shared.page.goto(page.url());
  await until(shared.page, 'the shared clip plays', () => (document.querySelector('video')?.currentTime ?? 0) > 0);
  await shared.context.close();

  await page.goBack();
  await page.locator('video').waitFor({ state: 'detached' });
  must((await page.locator('[data-clip]').count()) > 0, 'Back did not return to the results');

  const heading = await page.locator('#results-title').textContent();
  await page.locator('#language').click();
  await until(page, 'the language changes', (was) => document.documentElement.lang === 'en' && document.querySelector('#results-title').textContent !== was, heading);
  await page.reload();
  await settled(page);
  must((await page.evaluate(() => document.documentElement.lang)) === 'en', 'the language was not remembered');
  await context.close();
}

const problem = (status, title, detail) => ({
  status,
  contentType: 'application/problem+json',
  body: JSON.stringify({ type: 'about:blank', title, status, detail }),
});

/** Each designed state: how it is brought about, and what must then be seen. */
function states(subject) {
  const { lat, lon } = subject.site.point;
  const at = `at=${lat},${lon}&r=200&name=${encodeURIComponent(subject.site.name)}`;
  const clipAt = Date.parse(subject.clip.start);
  const around = `from=${new Date(clipAt - 1800_000).toISOString()}&to=${new Date(Date.parse(subject.clip.end) + 60_000).toISOString()}`;
  const link = `clip=${subject.clip.id}&clip_cam=${subject.clip.device.id}&clip_at=${subject.clip.start}`;
  const clips = '**/api/v1/clips?*';
  const rewrite = (change) => async (page) =>
    page.route(clips, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, json: change(await response.json()) });
    });
  return [
    { name: 'start', query: '', see: '.notice' },
    { name: 'results', query: `?${at}&last=14400`, see: '[data-clip]' },
    { name: 'everywhere', query: '?last=3600', see: '#results .tools' },
    { name: 'by-time', query: `?${at}&last=14400`, see: '[data-clip]', then: (page) => page.locator('.pair button').nth(1).click() },
    { name: 'player', query: `?${at}&${around}&${link}`, see: 'video', then: (page) => until(page, 'the video is ready', () => document.querySelector('video').readyState >= 3) },
    {
      name: 'on-box',
      query: `?${at}&${around}&${link}`,
      before: rewrite((a) => ({ ...a, clips: a.clips.map((c) => ({ ...c, where: 'box', links: { ...c.links, video: null } })) })),
      see: '.absent .notice',
    },
    { name: 'no-footage', query: `?${at}&${around}`, before: rewrite((a) => ({ ...a, clips: [], next: null })), see: '.notice' },
    { name: 'no-cameras', query: `?at=${lat + 1},${lon}&r=50&${around}`, see: '.notice' },
    { name: 'loading', query: `?${at}&${around}`, before: (page) => page.route(clips, () => {}), see: '.waiting:not(:empty)', busy: true },
    { name: 'denied', query: `?${at}&${around}`, before: (page) => page.route(clips, (r) => r.fulfill(problem(403, 'Forbidden', 'purpose is required for this area'))), see: '.notice.warn' },
    { name: 'offline', query: `?${at}&${around}`, before: (page) => page.route(clips, (r) => r.abort('connectionrefused')), see: '.notice.bad' },
    { name: 'error', query: `?${at}&${around}`, before: (page) => page.route(clips, (r) => r.fulfill(problem(503, 'Index is being rebuilt', 'try again in about 20 s'))), see: '.notice.bad' },
  ];
}

async function pictures(browser, subject) {
  for (const { main, ...look } of LOOKS) {
    const context = await contextOf(browser, look);
    for (const state of states(subject).filter((s) => !main || MAIN.includes(s.name))) {
      const page = await pageOf(context, { ...look, quietly: true });
      await state.before?.(page);
      await page.goto(new URL(`/${state.query}`, origin).href);
      await page.locator(state.see).first().waitFor();
      if (!state.busy) await settled(page);
      await state.then?.(page);
      if (look.size === 'desk') await page.locator('.overlay').waitFor({ state: 'attached' });
      await drawn(page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      must(wide <= 0, `${state.name} (${look.size}) is ${wide} px wider than the screen`);
      await shot(page, `${look.size}-${look.lang}-${look.theme}-${state.name}`);
      await page.close();
    }
    await context.close();
  }
  // The phone's map, unfolded.
  const { context, page } = await open(browser, { size: 'phone' });
  await page.goto(new URL('/?last=3600', origin).href);
  await page.locator('.fold').click();
  await page.locator('.site').first().waitFor();
  await settled(page);
  await shot(page, 'phone-vi-dark-map');
  await context.close();
}

/** A tap on the map chooses a point, whichever of the two maps it is. */
async function mapTap(browser, surface, theme, name) {
  const { context, page } = await open(browser, { size: 'desk', theme });
  await page.goto(base);
  await page.locator('.site').first().waitFor();
  await page.locator(surface).waitFor();
  const answer = answers(page);
  await page.locator(surface).click({ position: { x: 200, y: 420 } });
  await answer;
  must(new URL(page.url()).searchParams.has('at'), `a tap on the map (${surface}) chose no point`);
  await settled(page);
  await drawn(page);
  await shot(page, name);
  await context.close();
}

const deadline = setTimeout(() => {
  console.error(`officer: not finished after ${WHOLE_RUN_MS / 1000} s`);
  process.exit(1);
}, WHOLE_RUN_MS);

const browsers = [];
const launch = async (args) => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: [...ARGS, ...args] });
  browsers.push(browser);
  return browser;
};
try {
  const subject = await findSubject();
  // WebGL drawn by the processor takes seconds for each page: one look at it, the rest with the SVG map.
  const withGl = await launch(SOFTWARE_GL);
  for (const theme of ['dark', 'light']) await mapTap(withGl, 'canvas.maplibregl-canvas', theme, `desk-vi-${theme}-map-webgl`);
  await withGl.close();
  const withoutGl = await launch(NO_GL);
  await mapTap(withoutGl, '.box svg', 'dark', 'desk-vi-dark-map-svg');
  console.log('officer: both maps take a tap');
  for (const size of ['desk', 'phone']) {
    await walk(withoutGl, subject, size);
    console.log(`officer: the walk is good (${size})`);
  }
  await pictures(withoutGl, subject);
  must(complaints.length === 0, `the page complained:\n  ${[...new Set(complaints)].join('\n  ')}`);
  console.log(`officer: all good, pictures in ${out}`);
} catch (error) {
  console.error(`officer: FAILED: ${error.message}`);
  if (complaints.length) console.error(`complaints:\n  ${[...new Set(complaints)].join('\n  ')}`);
  process.exitCode = 1;
} finally {
  clearTimeout(deadline);
  for (const browser of browsers) await browser.close();
}
