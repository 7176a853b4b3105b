// An officer looks for footage, in a real browser against a running hub.
//   node tests/browser/officer.mjs BASE_URL OUT_DIR
// Owns: the walk from the two fields to running videos and back, in both languages, at a desk and on a phone; the
// promises that the page talks to no other host and that axe-core finds no serious fault on any screen; pictures of
// every designed state. Knows nothing of the hub's data: names come from /api/v1/places.
// Failing states (denied, offline, …) are made by answering the browser's own requests, so any hub will do.
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { axe, base, contextOf, drawn, launch, must, NO_GL, open, origin, out, pageOf, problem, run, shot, SOFTWARE_GL, until, WAIT_MS } from './common.mjs';

const WHOLE_RUN_MS = 330_000;
/** Every state once in each language; the three main screens in both sizes and both themes. */
const LOOKS = [
  { size: 'desk', lang: 'vi', theme: 'dark' },
  { size: 'phone', lang: 'en', theme: 'light' },
  { size: 'desk', lang: 'en', theme: 'light', main: true },
  { size: 'phone', lang: 'vi', theme: 'dark', main: true },
];
const MAIN = ['results', 'player', 'no-footage'];

const settled = (page) => page.locator('#results:not([aria-busy=true])').waitFor();
const answers = (page) => page.waitForResponse((r) => r.url().includes('/api/v1/clips?') && r.ok());

/** A place and a time that the hub at hand has clips with video for. */
async function findSubject() {
  const get = async (path) => {
    const response = await fetch(new URL(path, origin), { signal: AbortSignal.timeout(WAIT_MS) });
    must(response.ok, `GET ${path} answered ${response.status}`);
    return response.json();
  };
  const places = await get('/api/v1/places');
  // A hub that has just started may still be taking its first videos.
  const deadline = Date.now() + WAIT_MS;
  let clip;
  while (!clip && Date.now() < deadline) {
    const to = new Date();
    const from = new Date(to.getTime() - 4 * 3600_000);
    const { clips } = await get(`/api/v1/clips?from=${from.toISOString()}&to=${to.toISOString()}&order=newest&limit=100`);
    clip = clips.find((c) => c.links.video);
    if (!clip) await new Promise((done) => setTimeout(done, 500));
  }
  must(clip, 'the hub has no clip with video in the last four hours');
  const site = places.sites.find((s) => s.id === clip.site.id);
  must(site, `the clip's site ${clip.site.id} is not among the places`);
  return { site, clip };
}

/** The walk itself: place, time, result, running video, keys, Back, language. */
async function walk(browser, subject, size, lang) {
  const { context, page } = await open(browser, { size, lang });
  const words = WORDS[lang];
  // The other language has the same controls, and its screens are judged among the pictures.
  const judged = (size === 'desk') === (lang === 'vi');
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
  await shot(page, `${size}-${lang}-dark-place-typing`);
  await axe(page, `${size} ${lang} place typing`, judged);
  const first = answers(page);
  await page.locator('#place-list [role=option]').filter({ hasText: subject.site.name }).first().click();
  await first;
  must(new URL(page.url()).searchParams.has('at'), 'the chosen place is not in the address');

  await page.locator('#time').fill(words.nights);
  await page.locator('#time-understood.good').waitFor();
  must((await page.locator('#time-understood').textContent()).includes('22:00–04:00'), 'what was understood of each night is not said');
  await shot(page, `${size}-${lang}-dark-time-typing`);
  await axe(page, `${size} ${lang} time typing`, judged);
  await page.locator('#time').fill(words.hours);
  const second = answers(page);
  await page.locator('#time').press('Enter');
  const answer = await read(await second);
  must(new URL(page.url()).searchParams.get('last') === '14400', 'the chosen time is not in the address');
  await settled(page);
  await page.locator('[data-clip]').first().waitFor();
  must(answer.clips.length > 0, 'no clips were found');
  must(answer.coverage.length > 0, 'no coverage was answered');
  must((await page.locator('.track').count()) >= answer.coverage.length, 'the timeline does not show every camera');

  // A clip with video plays: the longest in sight, so that a slow machine is not at its end before we look.
  const [playable, rest] = [page.locator('[data-clip][data-video]').first(), page.locator('.rest')];
  await playable.or(rest.first()).first().waitFor();
  // A busy box uploads late: then the newest clips are without video, and the older ones are behind a button.
  while (!(await playable.count()) && (await rest.count())) await rest.first().click();
  await playable.waitFor();
  const inSight = await page.locator('[data-clip][data-video]').evaluateAll((cards) => cards.map((c) => c.dataset.clip));
  const length = (c) => Date.parse(c.end) - Date.parse(c.start);
  const id = answer.clips.filter((c) => inSight.includes(c.id)).sort((a, b) => length(b) - length(a))[0]?.id ?? inSight[0];
  await page.locator(`[data-clip="${id}"]`).click();
  await until(page, 'the video plays', () => (document.querySelector('video')?.currentTime ?? 0) > 1.2);
  if (size === 'desk') await page.keyboard.press('k');
  else await page.locator('.controls .play').tap();
  await until(page, 'the video pauses', () => document.querySelector('video')?.paused);
  must(new URL(page.url()).searchParams.get('clip') === id, 'the open clip is not in the address');
  const bare = await page.evaluate(() => {
    const box = document.querySelector('video').getBoundingClientRect();
    return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)?.tagName;
  });
  must(bare === 'VIDEO', `something lies over the picture: ${bare}`);

  await axe(page, `${size} ${lang} player`, judged);

  if (size === 'desk') {
    const time = () => page.evaluate(() => document.querySelector('video').currentTime);
    // Frames are tried away from both ends, however slow this machine was until here.
    const before = await time();
    await page.keyboard.press('ArrowLeft');
    await until(page, 'the left arrow steps one frame back', (was) => document.querySelector('video').currentTime < was - 0.005 && document.querySelector('video').currentTime > was - 0.6, before);
    await page.keyboard.press('ArrowRight');
    await until(page, 'the right arrow steps one frame on', (was) => Math.abs(document.querySelector('video').currentTime - was) < 0.02, before);
    for (let left = 20; left > 0 && (await time()) > 0; left--) await page.keyboard.press('j');
    must((await time()) === 0, 'J does not go back to the beginning');
    await page.keyboard.press('l');
    await until(page, 'L plays', () => !document.querySelector('video').paused);
    await page.keyboard.press('l');
    await until(page, 'L again plays at double speed', () => document.querySelector('video').playbackRate === 2);
    await page.keyboard.press(' ');
    await until(page, 'space pauses', () => document.querySelector('video').paused);
    await lookClosely(page, judged);
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

  await afterwards(page, size, lang, judged);

  const heading = await page.locator('#results-title').textContent();
  const other = lang === 'vi' ? 'en' : 'vi';
  await page.locator('#language').click();
  await until(page, 'the language changes', ([was, to]) => document.documentElement.lang === to && document.querySelector('#results-title').textContent !== was, [heading, other]);
  await page.reload();
  await settled(page);
  must((await page.evaluate(() => document.documentElement.lang)) === other, 'the language was not remembered');
  await context.close();
}

const WORDS = {
  vi: { hours: '4 giờ qua', nights: 'mỗi đêm 22–04h tuần trước' },
  en: { hours: 'last 4 hours', nights: 'each night 22-04 last week' },
};

/** What the hub answers to the page's question; the browser does not keep the body of a stream. */
async function read(response) {
  const again = await fetch(response.url(), { headers: { accept: 'application/json' }, signal: AbortSignal.timeout(WAIT_MS) });
  must(again.ok, `${response.url()} answered ${again.status}`);
  return again.json();
}

/** Zoom, snapshot, a repeated span, and what comes after the clip's end. */
async function lookClosely(page, judged) {
  await page.keyboard.press('+');
  await until(page, 'plus zooms the picture', () => document.querySelector('video').style.transform.includes('scale(1.4'));
  await page.keyboard.press('d');
  await page.keyboard.press('0');
  await until(page, 'zero shows the whole picture', () => !document.querySelector('video').style.transform);

  const saving = page.waitForEvent('download');
  await page.keyboard.press('x');
  const picture = await (await saving).path();
  must(statSync(picture).size > 10_000, 'the snapshot is no picture');
  const [width, height] = [16, 20].map((at) => readFileSync(picture).readUInt32BE(at));
  const film = await page.evaluate(() => document.querySelector('video').videoHeight);
  must(width >= 900 && height > film + 150, `the snapshot (${width}×${height}) has no margin below its ${film} lines`);

  for (let left = 20; left > 0 && (await page.evaluate(() => document.querySelector('video').currentTime)) > 0; left--) await page.keyboard.press('j');
  await page.keyboard.press('i');
  for (let n = 0; n < 8; n++) await page.keyboard.press('ArrowRight');
  await page.keyboard.press('o');
  await page.locator('.track .loop').first().waitFor();
  await page.keyboard.press('r');
  await page.locator('.track .loop').first().waitFor({ state: 'detached' });

  // Beyond the clip's end the player goes on, or says that nothing is left; never a black picture without a word.
  const first = new URL(page.url()).searchParams.get('clip');
  await page.locator('.controls select').selectOption('16');
  await page.keyboard.press(' ');
  await until(
    page,
    'the player goes beyond the clip',
    (was) => new URLSearchParams(location.search).get('clip') !== was || document.querySelector('.tile .notice') !== null,
    first,
  );
  await page.keyboard.press('k');
  await page.locator('.controls select').selectOption('1');

  // Another camera beside it, in step.
  await page.locator('#beside').click();
  await page.locator('.pick input').first().check();
  await page.keyboard.press('c');
  must((await page.locator('[data-tile]').count()) === 2, 'the second camera is not beside the first');
  must(new URL(page.url()).searchParams.has('with'), 'the second camera is not in the address');
  await axe(page, 'two cameras', judged);
  await shot(page, 'desk-two-cameras');

  // A gap on the row of an open camera says its cause in place of the picture.
  const gap = page.locator('.track .gap').first();
  if (await gap.count()) {
    await gap.hover({ force: true, timeout: 2000 }).catch(() => undefined);
    await page.locator('.told').first().waitFor();
  }
}

/** What can be done with the whole answer. */
async function afterwards(page, size, lang, judged) {
  if (size === 'desk') {
    await page.keyboard.press('?');
    await page.locator('dialog[open]').waitFor();
    await axe(page, `${size} ${lang} help`, judged);
    await shot(page, `${size}-${lang}-dark-help`);
    await page.keyboard.press('Escape');
    await page.locator('dialog[open]').waitFor({ state: 'detached' }).catch(() => undefined);
  }
  await page.locator('#share').click();
  await page.locator('.menu .sheet').waitFor();
  const link = await page.locator('.menu .sheet input').inputValue();
  must(!new URL(link).searchParams.has('last') && new URL(link).searchParams.has('from'), 'a shared link must mean the same tomorrow');
  await axe(page, `${size} ${lang} share`, judged);
  await page.keyboard.press('Escape');
  await page.locator('.menu .sheet').waitFor({ state: 'detached' });

  // Paper: facts, map, the account of every camera, thumbnails.
  await page.evaluate(() => dispatchEvent(new Event('beforeprint')));
  await page.emulateMedia({ media: 'print' });
  await page.locator('.sheet table').waitFor();
  const rows = await page.locator('.sheet tbody tr').count();
  must(rows > 0 && rows === (await page.locator('.track[role=listbox]').count()), 'the printed account does not name every camera');
  if (size === 'desk') await page.screenshot({ path: join(out, `paper-${lang}.png`) });
  await page.emulateMedia({ media: 'screen' });
  await page.evaluate(() => dispatchEvent(new Event('afterprint')));

  // The time slider, by keyboard: a shorter time is in the address, and Back brings the longer one.
  const before = page.url();
  const end = page.locator('.slider [data-end=from]');
  await end.focus();
  await page.keyboard.press('Shift+ArrowRight');
  const narrowed = answers(page);
  await page.keyboard.press('Enter');
  await narrowed;
  await settled(page);
  const query = new URL(page.url()).searchParams;
  must(query.has('from') && !query.has('last'), 'the slider did not narrow the time');
  const back = answers(page);
  await page.goBack();
  await back;
  await settled(page);
  must(page.url() === before, 'Back did not bring the longer time');
  await page.locator('[data-clip]').first().waitFor();
}

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
      const response = await route.fetch({ headers: { ...route.request().headers(), accept: 'application/json' } });
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
      see: '.tile .notice',
    },
    { name: 'no-footage', query: `?${at}&${around}`, before: rewrite((a) => ({ ...a, clips: [], next: null })), see: '.notice' },
    { name: 'no-cameras', query: `?at=${lat + 1},${lon}&r=50&${around}`, see: '.notice' },
    { name: 'loading', query: `?${at}&${around}`, before: (page) => page.route(clips, () => {}), see: '.waiting:not(:empty)', busy: true },
    { name: 'denied', query: `?${at}&${around}`, before: (page) => page.route(clips, (r) => r.fulfill(problem(403, 'Forbidden', 'purpose is required for this area'))), see: '.notice.warn' },
    { name: 'offline', query: `?${at}&${around}`, before: (page) => page.route(clips, (r) => r.abort('connectionrefused')), see: '.notice.bad' },
    {
      name: 'partial',
      query: `?${at}&${around}`,
      // A stream that breaks off: what came stays, and is not taken for the whole.
      before: (page) =>
        page.route(clips, async (route) => {
          const response = await route.fetch({ headers: { ...route.request().headers(), accept: 'application/json' } });
          const answer = await response.json();
          const lines = [{ understood: answer.understood }, ...answer.clips.slice(0, 2).map((clip) => ({ clip }))];
          await route.fulfill({ status: 200, contentType: 'application/x-ndjson', body: lines.map((line) => JSON.stringify(line)).join('\n') });
        }),
      see: '.notice.bad',
    },
    { name: 'polygon', query: `?poly=${lat + 0.002},${lon - 0.002};${lat + 0.002},${lon + 0.002};${lat - 0.002},${lon + 0.002};${lat - 0.002},${lon - 0.002}&last=14400`, see: '#results .tools' },
    { name: 'sees', query: `?sees=${lat},${lon}&last=14400`, see: '#results .tools' },
    {
      name: 'working-copy',
      query: `?${at}&${around}&${link}`,
      // A hub without GStreamer: the original is shown, and said to be it.
      before: async (page) => {
        await page.route('**/copy.mp4*', (r) => r.fulfill(problem(501, 'Not implemented', 'this hub makes no working copies')));
        await page.addInitScript(() => localStorage.setItem('camnet.thrifty', 'on'));
      },
      see: 'video',
      then: (page) => until(page, 'the original takes the place of the copy', () => document.querySelector('video')?.src.includes('copy') === false && document.querySelector('video').readyState >= 2),
    },
    { name: 'error', query: `?${at}&${around}`, before: (page) => page.route(clips, (r) => r.fulfill(problem(503, 'Index is being rebuilt', 'try again in about 20 s'))), see: '.notice.bad' },
  ];
}

async function pictures(browser, subject) {
  const each = async ({ main, ...look }) => {
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
      await axe(page, `${look.size} ${look.lang} ${look.theme} ${state.name}`);
      await page.close();
    }
    await context.close();
  };
  for (const pair of [LOOKS.slice(0, 2), LOOKS.slice(2)]) await Promise.all(pair.map(each));
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

/** An area is drawn corner by corner, by hand and with the keys of the map. */
async function drawing(browser, subject) {
  const { context, page } = await open(browser, { size: 'desk' });
  await page.goto(new URL('/?last=14400', origin).href);
  await page.locator('.site').first().waitFor();
  await page.locator('.draw button').first().click();
  const map = page.locator('.box svg');
  for (const position of [{ x: 120, y: 120 }, { x: 480, y: 130 }, { x: 470, y: 400 }, { x: 130, y: 380 }]) await map.click({ position });
  must((await page.locator('.corner').count()) === 4, 'the corners are not shown');
  await axe(page, 'drawing');
  await shot(page, 'desk-vi-dark-drawing');
  const answer = page.waitForResponse((r) => r.url().includes('/api/v1/clips'));
  await page.locator('.draw .primary').click();
  await answer;
  must(new URL(page.url()).searchParams.get('poly')?.split(';').length === 4, 'the drawn area is not in the address');
  await settled(page);
  await context.close();
}

/** From a clip to where to look next, and to footage that lies on the box; and a search that takes too long is stopped. */
async function further(browser, subject) {
  const context = await contextOf(browser, { size: 'desk' });
  const { lat, lon } = subject.site.point;
  const at = `at=${lat},${lon}&r=200`;
  const clip = `clip=${subject.clip.id}&clip_cam=${subject.clip.device.id}&clip_at=${subject.clip.start}`;

  const page = await pageOf(context, { size: 'desk', quietly: true });
  await page.goto(new URL(`/?${at}&last=14400&${clip}`, origin).href);
  await page.locator('#follow').click();
  const looks = page.locator('dialog[open] ol li');
  await looks.first().waitFor();
  must((await looks.first().locator('.when').textContent()).includes('–'), 'where to look next does not say when');
  await axe(page, 'following');
  await shot(page, 'desk-vi-dark-follow');
  const next = answers(page);
  await looks.first().locator('button').click();
  await next;
  await settled(page);
  const query = new URL(page.url()).searchParams;
  must(query.has('from') && query.has('to') && !query.has('clip'), 'a look is not a question about its camera and window');

  // What lies on the box only can be asked for; the hub says what to do as long as it can't fetch it.
  await page.goto(new URL(`/?${at}&last=14400`, origin).href);
  await settled(page);
  await page.locator('ul.box button').first().click();
  const told = page.locator('#results [role=status].next').first();
  await told.waitFor();
  await until(page, 'what became of the request is told', () => document.querySelector('#results [role=status].next')?.textContent.trim().length > 20);
  await axe(page, 'footage asked for');

  await page.route('**/api/v1/clips?*', () => {});
  await page.goto(new URL(`/?${at}&last=3600`, origin).href);
  await page.locator('#stop').click();
  await settled(page);
  must((await page.locator('#stop').count()) === 0, 'a search that was stopped goes on');
  await context.close();
}

await run('officer', WHOLE_RUN_MS, async () => {
  const subject = await findSubject();
  // WebGL drawn by the processor takes seconds for each page: one look at it, the rest with the SVG map.
  const withGl = await launch(SOFTWARE_GL);
  for (const theme of ['dark', 'light']) await mapTap(withGl, 'canvas.maplibregl-canvas', theme, `desk-vi-${theme}-map-webgl`);
  await withGl.close();
  const withoutGl = await launch(NO_GL);
  await mapTap(withoutGl, '.box svg', 'dark', 'desk-vi-dark-map-svg');
  console.log('officer: both maps take a tap');
  await drawing(withoutGl, subject);
  console.log('officer: an area is drawn');
  await further(withoutGl, subject);
  console.log('officer: following, asking for footage and stopping are good');
  // Two at a time: much of a walk is waiting for films.
  for (const pair of [[['desk', 'vi'], ['phone', 'en']], [['desk', 'en'], ['phone', 'vi']]]) {
    await Promise.all(
      pair.map(async ([size, lang]) => {
        await walk(withoutGl, subject, size, lang);
        console.log(`officer: the walk is good (${size}, ${lang})`);
      }),
    );
  }
  await pictures(withoutGl, subject);
});
