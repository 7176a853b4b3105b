// A technician at a pole, in a real browser against a running demo.
//   node tests/browser/technician.mjs BASE_URL OUT_DIR
// Owns: the walk on a phone in Vietnamese from what is wrong to the device, its picture right now, maintenance, the work
// order with note and photo, the report on one page, and the ward's light; pictures of every page and every designed state in both sizes,
// languages and themes; axe-core's judgement of each. Takes one camera that works and one that is dead from the hub.
// Failing states (denied, offline, …) are made by answering the browser's own requests.
import { axe, contextOf, launch, must, NO_GL, open, origin, out, pageOf, problem, run, shot, until, WAIT_MS } from './common.mjs';

const WHOLE_RUN_MS = 330_000;
/** A dead camera counts after it was dead for most of a minute, and a demo has just begun. */
const FOUND_MS = 150_000;
const STILL_MS = 90_000;
/** A still that is this old does not show what is there now. */
const STILL_AGE_MS_MAX = 60_000;
const LOOKS = [
  { size: 'phone', lang: 'vi', theme: 'light' },
  { size: 'desk', lang: 'en', theme: 'dark' },
  { size: 'phone', lang: 'en', theme: 'dark' },
  { size: 'desk', lang: 'vi', theme: 'light' },
];
const PHONE = { size: 'phone', lang: 'vi', theme: 'light' };

async function get(path) {
  const response = await fetch(new URL(path, origin), { signal: AbortSignal.timeout(WAIT_MS) });
  must(response.ok, `GET ${path} answered ${response.status}`);
  return response.json();
}

const sleepUntilNextLook = () => new Promise((done) => setTimeout(done, 500));

/** A camera that works, and one that its box does not reach. */
async function findSubjects() {
  const deadline = Date.now() + FOUND_MS;
  for (;;) {
    const { incidents, devices } = await get('/api/v1/fleet?kind=camera&state=all');
    const incident = incidents.find((one) => one.trouble === 'camera_unreachable' && one.cause.kind === 'device');
    // On a busy machine a camera that works may send few pictures.
    const working = devices.find((device) => ['working', 'degraded'].includes(device.state) && device.last_heard);
    if (incident && working) return { dead: devices.find((device) => device.id === incident.devices[0]), working };
    must(Date.now() < deadline, `no camera is known to be dead after ${FOUND_MS / 1000} s: ${JSON.stringify(incidents)}`);
    await sleepUntilNextLook();
  }
}

const plain = (text) => text.normalize('NFD').replace(/\p{M}/gu, '').replace(/đ/g, 'd').replace(/Đ/g, 'D');
/** Nothing is wider than the screen, and whatever is to be tapped is large enough for a thumb (WCAG 2.2, 2.5.8). */
async function fits(page, name) {
  // A phone's browser makes the page wider than its screen instead of letting it overflow.
  const wide = (await page.evaluate(() => Math.max(document.documentElement.scrollWidth, innerWidth))) - page.viewportSize().width;
  must(wide <= 0, `${name} is ${wide} px wider than the screen`);
  const small = await page.evaluate(() =>
    [...document.querySelectorAll('button, .button, nav a, select, input:not([type=file])')]
      .filter((one) => one.checkVisibility() && !one.closest('.overlay, .hidden-visually'))
      .map((one) => ({ box: one.getBoundingClientRect(), words: one.textContent.trim().slice(0, 30) || one.id }))
      .filter(({ box }) => box.height > 0 && (box.height < 24 || box.width < 24))
      .map(({ words }) => words),
  );
  must(small.length === 0, `${name}: too small for a thumb: ${small.join(', ')}`);
}

async function look(page, name) {
  await page.evaluate(() => document.fonts.ready);
  await fits(page, name);
  await axe(page, name);
  await page.evaluate(() => scrollTo(0, 0));
  await shot(page, `technician-${name}`);
}

/** Overview → device → still → maintenance → work order with note and photo → report → lighting. */
async function walk(browser, { dead, working }) {
  const { context, page } = await open(browser, PHONE);
  await page.goto(new URL('/fleet', origin).href);
  const card = page.locator(`[data-cause="device:${dead.id}"]`);
  await card.waitFor();
  must((await card.textContent()).includes('mất kết nối camera'), 'the card does not say what is wrong');
  must((await card.textContent()).includes('nguồn'), 'the card does not say what to do');
  await look(page, 'walk-1-status');

  // Found by its name without marks; the address says what is shown.
  await page.locator('#filter-text').fill(plain(dead.name));
  await page.locator(`[data-device="${dead.id}"]`).waitFor();
  await until(page, 'the filter is in the address', () => new URLSearchParams(location.search).has('q'));
  await page.locator('#filter-state').selectOption('maintenance');
  await page.locator('ul [data-device]').first().waitFor({ state: 'detached' });
  await page.locator('#filter-state').selectOption('all');
  await page.locator('#filter-text').fill('');
  await page.locator(`[data-device="${working.id}"]`).tap();

  // Is it working now, really? One tap and the picture is there.
  await page.locator('[data-state]').waitFor();
  must(new URL(page.url()).pathname === `/fleet/devices/${working.id}`, 'the device is not in the address');
  await page.locator('.strip .piece').first().waitFor();
  await look(page, 'walk-2-device');
  await page.locator('#still-purpose').fill('kiểm tra sau bão');
  const asked = Date.now();
  await page.locator('#still').tap();
  await page.locator('.waiting:not(:empty)').waitFor();
  await page.locator('#still-picture').waitFor({ timeout: STILL_MS });
  await until(page, 'the picture is drawn', () => document.querySelector('#still-picture')?.naturalWidth > 100);
  console.log(`technician: the picture was there after ${Math.round((Date.now() - asked) / 100) / 10} s`);
  const { access } = await get('/api/v1/access?limit=50');
  const looks = access.filter((entry) => entry.purpose === 'kiểm tra sau bão').map((entry) => entry.action);
  must(looks.includes('still') && looks.includes('thumbnail'), `the looks were not recorded: ${looks.join()}`);
  const events = await get(`/api/v1/events?type=camnet.clip.v1&device=${working.id}&limit=1`);
  must(asked - Date.parse(events.events[0].data.end) < STILL_AGE_MS_MAX, 'the picture is not of now');
  await page.locator('#still-picture').scrollIntoViewIfNeeded();
  await shot(page, 'technician-walk-3-still');

  await page.locator('#service-why').fill('lau ống kính');
  await page.locator('#service').tap();
  await page.locator('[data-state=maintenance]').waitFor();
  await page.evaluate(() => scrollTo(0, 0));
  await shot(page, 'technician-walk-4-maintenance');
  await page.locator('#service-why').fill('đã lau, hình rõ');
  await page.locator('#service').tap();
  await page.locator('[data-state]:not([data-state=maintenance])').waitFor();

  // The dead one: its order, opened by hand, with what was seen.
  await page.goBack();
  await page.locator('#filter-text').waitFor();
  await page.goto(new URL(`/fleet/devices/${dead.id}`, origin).href);
  await page.locator('[data-state=unreachable]').waitFor();
  await page.locator('#open-order, a[href^="/fleet/orders/"]').first().tap();
  await page.locator('[data-stage]').waitFor();
  await page.locator('#assign').fill('Minh');
  await page.locator('#assign').press('Enter');
  await page.locator('[data-stage=assigned]').waitFor();
  await page.locator('#note').fill('Dây mạng bị chuột cắn, đã thay');
  await page.locator('#write').tap();
  await page.locator('.log li', { hasText: 'chuột cắn' }).waitFor();
  const photo = await page.screenshot({ type: 'jpeg' });
  await page.locator('#photo').setInputFiles({ name: 'cot.jpg', mimeType: 'image/jpeg', buffer: photo });
  await page.locator('figure img').waitFor();
  await page.locator('#write').tap();
  await until(page, 'the photo comes back from the hub', () => [...document.querySelectorAll('.log img')].some((img) => (img.scrollIntoView(), img.naturalWidth > 100)));
  await page.locator('#part').fill('Dây mạng 5 m');
  await page.locator('#part').press('Enter');
  await page.locator('li', { hasText: '1 × Dây mạng 5 m' }).waitFor();
  await look(page, 'walk-5-order');
  await page.locator('#mended').tap();
  await page.locator('[data-stage=unproved]').waitFor();
  must((await page.locator('.proof').textContent()).includes('chờ chứng thực'), 'nobody says that the proof is waited for');
  await look(page, 'walk-6-unproved');
  const order = new URL(page.url()).pathname.split('/').pop();
  await page.locator('nav a', { hasText: 'Phiếu' }).tap();
  await page.locator(`[data-order="${order}"]`).waitFor();
  await look(page, 'walk-7-orders');

  await report(page);
  await lighting(page);
  await back(page, dead);
  await context.close();
}

/** One page of paper, and the same as a table. */
async function report(page) {
  await page.locator('nav a', { hasText: 'Báo cáo' }).tap();
  await page.locator('#summary tbody tr').first().waitFor();
  await page.locator('#report-area').selectOption({ index: 1 });
  await until(page, 'the area is in the address', () => new URLSearchParams(location.search).has('area'));
  await page.locator('#summary tbody tr').first().waitFor();
  await look(page, 'walk-8-report');
  const csv = await page.locator('#csv').getAttribute('href');
  const table = await (await fetch(new URL(csv, origin))).text();
  must(table.startsWith('device,name,kind') && table.split('\r\n').length > 2, `no table: ${table.slice(0, 100)}`);
  const paper = await page.pdf({ format: 'A4', path: `${out}/technician-report.pdf` });
  const pages = paper.toString('latin1').match(/\/Type\s*\/Page\b/g)?.length;
  must(pages === 1, `the report has ${pages} pages`);
  await page.emulateMedia({ media: 'print' });
  await shot(page, 'technician-report-paper');
  await page.emulateMedia({ media: 'screen' });
}

/** Every circuit the hub knows, with its hours and its energy, of this month and of the one before. */
async function lighting(page) {
  await page.locator('nav a', { hasText: 'Đèn' }).tap();
  await page.locator('#circuits [data-circuit]').first().waitFor();
  must(new URL(page.url()).pathname === '/fleet/lighting', 'lighting is not in the address');
  const { circuits } = await get('/api/v1/lighting');
  const known = circuits.map((one) => `${one.device}:${one.circuit}`).sort();
  await until(page, 'every circuit is listed', (all) => [...document.querySelectorAll('[data-circuit]')].map((one) => one.dataset.circuit).sort().join() === all, known.join());
  for (const row of await page.locator('[data-circuit]').allTextContents()) must(row.includes('Số giờ sáng') && row.includes('Điện năng'), `no hours or no energy: ${row}`);
  await page.locator('#stretches, .notice').first().waitFor();
  await look(page, 'walk-9-lighting');
  await page.emulateMedia({ media: 'print' });
  await shot(page, 'technician-lighting-paper');
  await page.emulateMedia({ media: 'screen' });
  await page.locator('#light-month').selectOption({ index: 1 });
  const month = await page.locator('#light-month').inputValue();
  await until(page, 'the month is in the address', (wanted) => new URLSearchParams(location.search).get('month') === wanted, month);
  const words = month.split('-').reverse().join('/');
  await page.locator('#light-title', { hasText: words }).waitFor();
  // The demo was not there a month ago: nothing is known of it, and that is not told as no hours.
  await page.locator('#circuits [data-circuit]', { hasText: 'tháng này chưa có tin báo về' }).first().waitFor();
  await page.locator('#light-area').selectOption({ index: 1 });
  await until(page, 'the area is in the address', () => new URLSearchParams(location.search).has('area'));
  await page.locator('#circuits [data-circuit], .notice').first().waitFor();
}

/** The map, places, the other language, and that Back leads through them. */
async function back(page, dead) {
  await page.locator('nav a', { hasText: 'Bản đồ' }).tap();
  const mark = page.locator(`[data-site="${dead.site}"]`);
  await mark.waitFor();
  await mark.tap();
  await page.locator(`.beside [data-device="${dead.id}"]`).waitFor();
  await look(page, 'walk-9-map');
  await page.locator('.layers button').nth(1).tap();
  await until(page, 'the lamps are drawn', () => document.querySelector('svg .lamp') !== null && new URLSearchParams(location.search).get('layer') === 'lamps');
  await look(page, 'walk-9-lamps');
  await page.locator('nav a', { hasText: 'Theo nơi' }).tap();
  await page.locator('.by button').nth(1).tap();
  await page.locator('summary').first().tap();
  await page.locator('details[open] dl').waitFor();
  await look(page, 'walk-9-places');
  await page.goBack();
  await page.locator('.layers').waitFor();
  const title = await page.locator('.layers button').nth(0).textContent();
  await page.locator('#language').tap();
  await until(page, 'the language changes', (was) => document.querySelector('.layers button').textContent !== was, title);
  await page.locator('#language').tap();
}

/** Every page and state: how it is brought about, and what must then be seen. */
function states({ dead, working }, order) {
  const fleetAsked = '**/api/v1/fleet?*';
  const refuse = (url, answer) => (page) => page.route(url, answer);
  /** The hub's own answer with a stretch of each darkness in it: at most one of them is in a demo. */
  const darken = refuse('**/api/v1/lighting*', async (route) => {
    const answer = await (await route.fetch()).json();
    const since = new Date(Date.now() - 7_500_000).toISOString();
    const stretches = ['dark', 'partly', 'unknown'].map((darkness, n) => {
      const { device, circuit, name, route: line } = answer.circuits[n % answer.circuits.length];
      const { lat, lon } = line[0] ?? { lat: 10.7769, lon: 106.7009 };
      const moved = [0, 1].map((end) => ({ lat: lat + n * 0.0003, lon: lon + end * 0.002 }));
      return { darkness, since, length_m: 218.6, lamps: [{ device, circuit: circuit + 10 * n, name, route: moved }] };
    });
    const circuits = answer.circuits.map((one, n) => (n === 0 ? { ...one, on: true, light: 'day', troubles: ['on_by_day'], known_s: 900_000, burnt_s: 500_000, by_day_s: 12_600, energy_kwh: 81.4 } : one));
    await route.fulfill({ json: { ...answer, circuits, stretches, metres: { dark: 218.6, partly: 218.6, unknown: 218.6 } } });
  });
  return [
    { name: 'status', path: '/fleet', see: '.card' },
    { name: 'status-all', path: '/fleet?state=all', see: '[data-device]' },
    {
      name: 'status-well',
      path: '/fleet',
      before: refuse(fleetAsked, async (route) => {
        const answer = await (await route.fetch()).json();
        await route.fulfill({ json: { ...answer, incidents: [], devices: [], next: undefined, totals: { camera: { working: 11 } } } });
      }),
      see: '.notice',
    },
    { name: 'status-loading', path: '/fleet', before: refuse(fleetAsked, () => {}), see: '.skeleton' },
    { name: 'status-denied', path: '/fleet', before: refuse(fleetAsked, (route) => route.fulfill(problem(403, 'Forbidden', 'demo may not do this'))), see: '.notice.warn' },
    { name: 'status-offline', path: '/fleet', before: refuse(fleetAsked, (route) => route.abort('connectionrefused')), see: '.notice.bad' },
    { name: 'status-error', path: '/fleet', before: refuse(fleetAsked, (route) => route.fulfill(problem(503, 'Service Unavailable', 'the hub is starting'))), see: '.notice.bad' },
    {
      name: 'status-stale',
      path: '/fleet',
      // The hub goes away while somebody looks: what is known stays, and is said to be old.
      before: async (page) => {
        let asked = 0;
        await page.route(fleetAsked, (route) => ((asked += 1) > 2 ? route.abort('connectionrefused') : route.continue()));
      },
      see: '.stale',
    },
    { name: 'device-working', path: `/fleet/devices/${working.id}`, see: '.charts figure', wait: '[data-state]' },
    { name: 'device-dead', path: `/fleet/devices/${dead.id}`, see: '.trouble' },
    { name: 'device-lamp', path: '/fleet/devices/lamp-01', see: '[data-state]' },
    { name: 'device-unknown', path: '/fleet/devices/no-such-camera', see: '.notice' },
    {
      name: 'device-still-failed',
      path: `/fleet/devices/${working.id}`,
      before: refuse('**/still', (route) => route.fulfill(problem(504, 'Gateway Timeout', 'box box-01 did not answer within 25 s'))),
      see: '#still',
      then: async (page) => {
        await page.locator('#still').click();
        await page.locator('[role=alert]').waitFor();
        await page.locator('[role=alert]').scrollIntoViewIfNeeded();
      },
    },
    {
      name: 'device-view',
      path: `/fleet/devices/${working.id}`,
      before: async (page) => {
        await page.route(`**/api/v1/devices/${working.id}`, async (route) => {
          const answer = await (await route.fetch()).json();
          const since = new Date(Date.now() - 7_500_000).toISOString();
          await route.fulfill({ json: { ...answer, state: 'degraded', troubles: [{ trouble: 'picture_moved', since }], faults: { motion_pipeline_stalled: { since, detail: 'no picture for 30 s' } } } });
        });
        await page.route('**/view', (route) => route.fulfill(problem(504, 'Gateway Timeout', 'box box-01 did not answer within 25 s')));
      },
      see: '#view',
      then: async (page) => {
        await page.locator('.faults li').first().waitFor();
        await page.locator('#view').click();
        await page.locator('#view-purpose').fill('xoay về cổng chợ');
        const [sent] = await Promise.all([page.waitForRequest('**/view'), page.locator('#view-accept').click()]);
        must(sent.postDataJSON().purpose === 'xoay về cổng chợ', `the reason is not sent: ${sent.postData()}`);
        await page.locator('[role=alert]').waitFor();
        await page.locator('[role=alert]').scrollIntoViewIfNeeded();
      },
    },
    { name: 'orders', path: '/fleet/orders', see: '[data-order]' },
    { name: 'orders-none', path: '/fleet/orders', before: refuse('**/api/v1/work-orders?*', (route) => route.fulfill({ json: { orders: [] } })), see: '.notice' },
    { name: 'order', path: `/fleet/orders/${order}`, see: '[data-stage]' },
    {
      name: 'order-closed',
      path: `/fleet/orders/${order}`,
      before: refuse(`**/api/v1/work-orders/${order}`, async (route) => {
        const answer = await (await route.fetch()).json();
        const closed = new Date().toISOString();
        await route.fulfill({ json: { ...answer, stage: 'closed', closed, mended: answer.mended ?? closed, proved: { [dead.id]: closed } } });
      }),
      see: '.proof.good',
    },
    { name: 'map', path: '/fleet/map', see: '.mark' },
    { name: 'map-lamps', path: '/fleet/map?layer=lamps', see: '.mark' },
    {
      name: 'map-dark',
      path: '/fleet/map?layer=lamps',
      before: darken,
      see: '.mark',
      then: async (page) => {
        await page.locator('#to-lighting').waitFor();
        await until(page, 'each darkness is drawn', () => ['dark', 'partly', 'unknown'].every((one) => document.querySelector(`svg .unlit.${one}`)));
      },
    },
    { name: 'lighting', path: '/fleet/lighting', see: '#circuits [data-circuit]' },
    { name: 'lighting-dark', path: '/fleet/lighting', before: darken, see: '#stretches > li' },
    {
      name: 'lighting-none',
      path: '/fleet/lighting',
      before: refuse('**/api/v1/lighting*', async (route) => {
        const answer = await (await route.fetch()).json();
        await route.fulfill({ json: { ...answer, circuits: [], stretches: [], metres: {} } });
      }),
      see: '.notice',
    },
    { name: 'lighting-error', path: '/fleet/lighting', before: refuse('**/api/v1/lighting*', (route) => route.fulfill(problem(503, 'Service Unavailable', 'the hub is starting'))), see: '.notice.bad' },
    { name: 'places', path: '/fleet/places', see: 'details' },
    { name: 'places-sites', path: '/fleet/places?by=site', see: 'details' },
    { name: 'report', path: '/fleet/report', see: '#summary tbody tr' },
    { name: 'unknown', path: '/fleet/nowhere', see: '.notice' },
  ];
}

async function pictures(browser, subjects, order) {
  const each = async (which) => {
    const context = await contextOf(browser, which);
    for (const state of states(subjects, order)) {
      const page = await pageOf(context, { ...which, quietly: true });
      await state.before?.(page);
      await page.goto(new URL(state.path, origin).href);
      if (state.wait) await page.locator(state.wait).first().waitFor();
      await page.locator(state.see).first().waitFor();
      await state.then?.(page);
      await page.evaluate(() => document.fonts.ready);
      const name = `${which.size}-${which.lang}-${which.theme}-${state.name}`;
      await fits(page, name);
      await axe(page, name);
      await shot(page, `technician-${name}`);
      await page.close();
    }
    await context.close();
  };
  for (const pair of [LOOKS.slice(0, 2), LOOKS.slice(2)]) await Promise.all(pair.map(each));
}

await run('technician', WHOLE_RUN_MS, async () => {
  const browser = await launch(NO_GL);
  const subjects = await findSubjects();
  console.log(`technician: ${subjects.dead.id} is dead, ${subjects.working.id} works`);
  await walk(browser, subjects);
  console.log('technician: the walk is good');
  const { orders } = await get('/api/v1/work-orders');
  await pictures(browser, subjects, orders.find((one) => one.devices.includes(subjects.dead.id)).id);
});
