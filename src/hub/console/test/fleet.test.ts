// Tests of what the technicians' pages decide without a screen: addresses, charts, strips, reports, the map, photos.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CameraHealth, Circuit, Darkness, DarkStretch, FleetEvent, Report } from '../src/fleet/api';
import { darkLines, doing, energy, inOrder, isDay, type Doing } from '../src/fleet/lighting';
import { smaller } from '../src/fleet/photo';
import { away, bars, worstFirst } from '../src/fleet/report';
import { months, readPage, writePage, type Page } from '../src/fleet/route';
import { beginning, clockOff, line, scaleOf, series, strip, thin, tickWords, WEEK_MS, type Dot } from '../src/fleet/series';

test('every page survives its address', () => {
  const table: [string, Page][] = [
    ['/fleet', { page: 'status', filter: { state: 'wrong' } }],
    ['/fleet?kind=camera&state=unreachable&area=khu-pho-1&q=c%E1%BB%95ng', { page: 'status', filter: { kind: 'camera', state: 'unreachable', area: 'khu-pho-1', q: 'cổng' } }],
    ['/fleet/map', { page: 'map', layer: 'devices' }],
    ['/fleet/map?layer=lamps&site=tru-so', { page: 'map', layer: 'lamps', site: 'tru-so' }],
    ['/fleet/places?by=street&open=duong-hoa-phuong', { page: 'places', by: 'street', open: 'duong-hoa-phuong' }],
    ['/fleet/lighting', { page: 'lighting' }],
    ['/fleet/lighting?area=khu-pho-1&month=2026-10', { page: 'lighting', area: 'khu-pho-1', month: '2026-10' }],
    ['/fleet/devices/cam-01', { page: 'device', id: 'cam-01' }],
    ['/fleet/orders?stage=closed', { page: 'orders', stage: 'closed' }],
    ['/fleet/orders/018f', { page: 'order', id: '018f' }],
    ['/fleet/report?area=tan-hung&month=2026-11', { page: 'report', area: 'tan-hung', month: '2026-11' }],
  ];
  for (const [address, page] of table) {
    assert.equal(writePage(page), address);
    const url = new URL(address, 'http://localhost');
    assert.deepEqual(readPage(url.pathname, url.searchParams), page, address);
  }
});

test('an address that makes no sense is not taken for another page', () => {
  const table: [string, Page][] = [
    ['/fleet/', { page: 'status', filter: { state: 'wrong' } }],
    ['/fleet?state=broken&kind=dog', { page: 'status', filter: { state: 'wrong' } }],
    ['/fleet/report?month=2026-13', { page: 'report' }],
    ['/fleet/lighting?month=11-2026&site=x', { page: 'lighting' }],
    ['/fleet/lighting/lamp-01', { page: 'unknown' }],
    ['/fleet/devices', { page: 'unknown' }],
    ['/fleet/devices/cam-01/more', { page: 'unknown' }],
    ['/fleet/nowhere', { page: 'unknown' }],
    ['/fleet/map/x', { page: 'unknown' }],
  ];
  for (const [address, page] of table) {
    const url = new URL(address, 'http://localhost');
    assert.deepEqual(readPage(url.pathname, url.searchParams), page, address);
  }
});

test('months are those of the ward, newest first', () => {
  // 01:00 on 1 December in the ward.
  assert.deepEqual(months(new Date('2026-11-30T18:00:00Z'), 3), ['2026-12', '2026-11', '2026-10']);
  assert.deepEqual(months(new Date('2026-01-15T00:00:00Z'), 2), ['2026-01', '2025-12']);
});

const HOUR = 3600_000;
const event = (t: number, fps?: number): FleetEvent => ({ time: new Date(t).toISOString(), type: 'camnet.status.v1', data: fps === undefined ? {} : { camera: { fps } as never } });

test('figures are told oldest first, and what has none is left out', () => {
  const dots = series([event(2 * HOUR, 20), event(HOUR), event(0, 25)], (e) => e.data.camera?.fps);
  assert.deepEqual(dots, [{ t: 0, v: 25 }, { t: 2 * HOUR, v: 20 }]);
});

test('a week of many figures keeps its spikes', () => {
  const dots: Dot[] = Array.from({ length: 5000 }, (_, t) => ({ t, v: t === 2500 ? 99 : t === 3333 ? -7 : 10 }));
  const few = thin(dots, 0, 5000, 100);
  assert.ok(few.length <= 200, `${few.length}`);
  assert.deepEqual([Math.max(...few.map((d) => d.v)), Math.min(...few.map((d) => d.v))], [99, -7]);
  assert.ok(few.every((d, i) => i === 0 || few[i - 1].t <= d.t), 'in order');
});

test('a line breaks where nothing is known', () => {
  const dots = [{ t: 0, v: 0 }, { t: 10, v: 10 }, { t: 90, v: 10 }];
  assert.equal(line(dots, 0, 100, scaleOf(dots), 100, 10, 20), 'M0.0 10.0L10.0 0.0M90.0 0.0h1.5');
  assert.deepEqual(scaleOf([{ t: 0, v: 0 }]), { low: 0, high: 1 });
  assert.deepEqual(scaleOf([{ t: 0, v: 40 }], 80), { low: 0, high: 80 });
  assert.deepEqual(scaleOf([{ t: 0, v: -3 }]), { low: -3, high: 0 });
});

test('a strip has no hole and says where nothing is known', () => {
  const at = (t: number) => new Date(t).toISOString();
  const states = [{ state: 'unreachable' as const, since: at(80) }, { state: 'working' as const, since: at(50) }, { state: 'degraded' as const, since: at(-10) }];
  assert.deepEqual(strip(states, 0, 100), [
    { state: 'degraded', from: 0, to: 50 },
    { state: 'working', from: 50, to: 80 },
    { state: 'unreachable', from: 80, to: 100 },
  ]);
  assert.deepEqual(strip([{ state: 'working', since: at(40) }], 0, 100), [{ from: 0, to: 40 }, { state: 'working', from: 40, to: 100 }]);
  assert.deepEqual(strip([], 0, 100), [{ from: 0, to: 100 }]);
});

test('what is drawn begins where something is known, and is never shorter than an hour', () => {
  const to = 100 * WEEK_MS;
  const table: [number | undefined, number][] = [
    [undefined, to - WEEK_MS],
    [0, to - WEEK_MS],
    [to - 5 * HOUR, to - 5 * HOUR],
    [to - 1000, to - HOUR],
  ];
  for (const [first, expected] of table) assert.equal(beginning(first, to), expected, String(first));
  const at = new Date('2026-11-20T15:15:00Z');
  assert.deepEqual([tickWords(at, to - WEEK_MS, to), tickWords(at, to - HOUR, to)], ['20/11', '22:15']);
});

test('the report puts the worst first and leaves out what does not count', () => {
  const device = (id: string, working: number | undefined, unreachable: number) =>
    ({ id, name: id, kind: 'camera', site: 's', working, in_state_s: { unreachable, maintenance: 500 } }) as Report['devices'][number];
  const sorted = worstFirst([device('well', 1, 0), device('new', undefined, 0), device('worst', 0.2, 80), device('bad', 0.5, 50)]);
  assert.deepEqual(sorted.map((d) => d.id), ['worst', 'bad', 'well', 'new']);
  assert.equal(away({ in_state_s: { not_recording: 3, unreachable: 4, degraded: 5, working: 6 } }), 7);
  assert.deepEqual(bars({ in_state_s: { working: 75, unreachable: 25, maintenance: 900 } }), [{ state: 'working', share: 0.75 }, { state: 'unreachable', share: 0.25 }]);
  assert.deepEqual(bars({ in_state_s: { maintenance: 900 } }), []);
});

test('a photo becomes small and keeps its shape', () => {
  assert.deepEqual(smaller(4000, 3000), { width: 1600, height: 1200 });
  assert.deepEqual(smaller(800, 600), { width: 800, height: 600 });
  assert.deepEqual(smaller(9000, 1), { width: 1600, height: 1 });
});

test('a camera’s own clock counts before that of its pictures', () => {
  const health = (camera_clock_ms: number | undefined, offset_ms: number | undefined) => ({ camera_clock_ms, clock: { source: 'box', sync: 'synced', offset_ms } }) as CameraHealth;
  const table: [number | undefined, number | undefined, number | undefined][] = [
    [90_000, 3, 90_000],
    [0, 3, 0],
    [undefined, 3, 3],
    [undefined, undefined, undefined],
  ];
  for (const [own, stamped, expected] of table) assert.equal(clockOff(health(own, stamped)), expected, `${own} ${stamped}`);
});

const circuit = (name: string, told: Partial<Circuit> = {}): Circuit => ({ device: 'lamp-01', circuit: 1, name, troubles: [], route: [], known_s: 0, burnt_s: 0, by_day_s: 0, energy_kwh: 0, ...told });

test('what a circuit does is told by what is known of it', () => {
  const table: [Partial<Circuit>, Doing][] = [
    [{}, 'unknown'],
    [{ on: true, light: 'night' }, 'lit'],
    [{ on: false, light: 'day' }, 'dark'],
    [{ on: true, light: 'day' }, 'by_day'],
    [{ on: true, light: 'between' }, 'lit'],
    [{ on: true, troubles: ['on_by_day'] }, 'by_day'],
    [{ on: true, light: 'night', troubles: ['lamp_failure'] }, 'fault'],
    [{ on: false, light: 'night', troubles: ['off_by_night'] }, 'fault'],
    // What it said before its box fell silent is not what it does by day.
    [{ on: true, light: 'day', troubles: ['box_silent'] }, 'unknown'],
    [{ on: true, light: 'day', troubles: ['cabinet_unreachable', 'on_by_day'] }, 'unknown'],
  ];
  for (const [told, expected] of table) assert.equal(doing(circuit('n', told)), expected, JSON.stringify(told));
});

test('what burns by day comes first, then what fails, then the rest', () => {
  const all = [
    circuit('nhánh 10'),
    circuit('nhánh 2'),
    circuit('quên tắt', { by_day_s: 900 }),
    circuit('mất nối', { on: true, light: 'day', troubles: ['box_silent'] }),
    circuit('hỏng', { troubles: ['supply_loss'], by_day_s: 60 }),
    circuit('ban ngày', { on: true, light: 'day' }),
    circuit('ban ngày lâu', { on: true, light: 'day', by_day_s: 7200 }),
  ];
  assert.deepEqual(inOrder(all).map((one) => one.name), ['ban ngày lâu', 'ban ngày', 'hỏng', 'mất nối', 'quên tắt', 'nhánh 2', 'nhánh 10']);
});

test('energy that no meter counted is not told as none', () => {
  const table: [Partial<Circuit>[], number | undefined][] = [
    [[{ energy_kwh: 2.5, burnt_s: 60, known_s: 60 }, { energy_kwh: 0.5 }], 3],
    [[{ burnt_s: 3600, known_s: 7200 }], undefined],
    [[{ burnt_s: 0, known_s: 7200 }], 0],
    [[{}], undefined],
  ];
  for (const [told, expected] of table) assert.equal(energy(told.map((one) => circuit('n', one))), expected, JSON.stringify(told));
});

test('it is day where all lamps have day', () => {
  const table: [Circuit['light'][], boolean][] = [[['day', 'day'], true], [['day', 'between'], false], [['day', undefined], false], [[], false]];
  for (const [lights, expected] of table) assert.equal(isDay(lights.map((light) => circuit('n', { light }))), expected, String(lights));
});

test('dark streets are drawn by darkness, and a lamp alone is seen too', () => {
  const stretch = (darkness: Darkness, ...routes: [number, number][][]): DarkStretch => ({
    darkness,
    since: '2026-11-20T12:00:00Z',
    length_m: 0,
    lamps: routes.map((route, n) => ({ device: `lamp-${n}`, name: '', route: route.map(([lon, lat]) => ({ lat, lon })) })),
  });
  const row: [number, number][] = [[106.7, 10.77], [106.71, 10.77]];
  const all = [stretch('dark', row, [[106.8, 10.8]]), stretch('unknown', row), stretch('partly', [])];
  const [line, alone, ...more] = darkLines(all, 'dark');
  assert.deepEqual([line, more], [row, []]);
  assert.ok(alone.length === 2 && alone[0][0] < 106.8 && alone[1][0] > 106.8 && alone.every(([, lat]) => Math.abs(lat - 10.8) < 1e-6), JSON.stringify(alone));
  assert.deepEqual([darkLines(all, 'unknown'), darkLines(all, 'partly'), darkLines([], 'dark')], [[row], [], []]);
});
