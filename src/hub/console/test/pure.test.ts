// Tests of what the page decides without a screen: the address, playing in step, the slider, streams, shapes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readChoice, toQuestion, writeChoice, plain, type Choice } from '../src/address';
import { queryOf, splitLines, type Clip, type Coverage } from '../src/api';
import { barsOf, countBetween, heights, selection } from '../src/histogram';
import { catchUp, clipAt, momentOf, nextStart, NO_ZOOM, panBy, previousEnd, zoomAt } from '../src/playback';
import { clusters, corridor, distance, linesOf, parsePoint, viewRing } from '../src/place';
import { nameSpot } from '../src/map';
import { wrap } from '../src/snapshot';

const NOW = new Date('2026-11-20T19:10:00Z');
const at = (clock: string) => Date.parse(`2026-11-20T${clock}Z`);
const clip = (id: string, from: string, to: string, video = true) =>
  ({ id, device: { id: 'cam-01', name: 'Cổng' }, start: `2026-11-20T${from}Z`, end: `2026-11-20T${to}Z`, links: { video: video ? `/v/${id}` : null, thumbnail: null } }) as Clip;

test('what was chosen survives the address', () => {
  const point = { lat: 10.74, lon: 106.695 };
  const range = { from: new Date('2026-11-20T14:00:00Z'), to: new Date('2026-11-20T16:00:00Z') };
  const table: Choice[] = [
    { place: { kind: 'everywhere' }, devices: [], order: 'newest' },
    { place: { kind: 'circle', point, radius_m: 100, name: 'Chợ & bờ kênh' }, range, devices: ['cam-01', 'cam-02'], order: 'oldest' },
    { place: { kind: 'area', id: 'tan-hung' }, range: { ...range, hours: '22:00-04:00', weekdays: ['sat', 'sun'] }, devices: [], order: 'newest' },
    { place: { kind: 'polygon', ring: [point, { lat: 10.75, lon: 106.7 }, { lat: 10.73, lon: 106.7 }] }, range, devices: [], order: 'newest' },
    { place: { kind: 'route', line: [point, { lat: 10.75, lon: 106.7 }], width_m: 30, name: undefined }, range, devices: [], order: 'newest' },
    { place: { kind: 'sees', point, name: undefined }, range, devices: [], order: 'newest' },
    { place: { kind: 'everywhere' }, range: { from: new Date(NOW.getTime() - 900_000), to: NOW, last_s: 900 }, devices: [], order: 'newest' },
  ];
  for (const choice of table) {
    const back = readChoice(new URLSearchParams(plain(writeChoice(choice))), NOW);
    assert.deepEqual(JSON.parse(JSON.stringify(back)), JSON.parse(JSON.stringify(choice)));
  }
});

test('an address that makes no sense asks for everything', () => {
  for (const text of ['at=abc', 'at=10.7', 'poly=1,2;3,4', 'route=1,2', 'sees=95,10', 'from=2026-11-21T00:00:00Z&to=2026-11-20T00:00:00Z', 'last=-5']) {
    const { place, range } = readChoice(new URLSearchParams(text), NOW);
    assert.deepEqual([place.kind, range], ['everywhere', undefined], text);
  }
});

test('a drawn question has the keys of the contract', () => {
  const ring = [{ lat: 10.74, lon: 106.69 }, { lat: 10.75, lon: 106.7 }, { lat: 10.73, lon: 106.7 }];
  const question = toQuestion({ place: { kind: 'polygon', ring }, devices: [], order: 'newest' });
  assert.deepEqual(question.polygon?.coordinates[0], [[106.69, 10.74], [106.7, 10.75], [106.7, 10.73], [106.69, 10.74]]);
  const query = queryOf({ ...question, weekdays: ['mon', 'tue'], limit: 100, device: [] });
  assert.equal(query.get('weekdays'), 'mon,tue');
  assert.equal(JSON.parse(query.get('polygon') ?? '').type, 'Polygon');
  assert.deepEqual([query.has('device'), query.has('area'), query.get('limit')], [false, false, '100']);
});

test('lines of a stream are read whole', () => {
  const first = splitLines('{"clip":{"id":"a"}}\n{"clip":', false);
  assert.deepEqual([first.lines.length, first.left], [1, '{"clip":']);
  assert.equal(splitLines(`${first.left}{"id":"b"}}\n{"end":{"next":null}}`, true).lines.length, 2);
  assert.deepEqual(splitLines('\n\n', false), { lines: [], left: '' });
});

test('playing goes from clip to clip and says why there is nothing between', () => {
  const clips = [clip('a', '14:00:00', '14:00:10'), clip('b', '14:00:08', '14:00:20'), clip('c', '14:05:00', '14:05:10', false), clip('d', '14:09:00', '14:09:10')];
  assert.equal(clipAt(clips, at('14:00:09'))?.id, 'b');
  assert.equal(clipAt(clips, at('14:00:09'), 'a')?.id, 'a', 'what is open stays open');
  assert.equal(clipAt(clips, at('14:00:20')), undefined);
  assert.equal(nextStart([clips], at('14:00:20')), at('14:09:00'), 'what lies on the box cannot be played');
  assert.equal(previousEnd([clips], at('14:08:00')), at('14:00:20'));
  assert.equal(nextStart([clips], at('14:10:00')), undefined);
  const coverage = {
    spans: [
      { state: 'recorded', start: '2026-11-20T14:00:00Z', end: '2026-11-20T14:02:00Z', open: false },
      { state: 'gap', cause: 'box_off', start: '2026-11-20T14:02:00Z', end: '2026-11-20T14:04:00Z', open: false },
    ],
    at_box: [{ start: '2026-11-20T14:01:00Z', end: '2026-11-20T14:02:00Z' }],
  } as unknown as Coverage;
  const kinds = ['14:00:05', '14:00:30', '14:01:30', '14:03:00', '14:08:00'].map((time) => momentOf(clips, coverage, at(time)));
  assert.deepEqual(kinds.map((m) => m.kind), ['clip', 'calm', 'calm', 'gap', 'unknown']);
  assert.deepEqual(kinds.slice(1, 3).map((m) => m.kind === 'calm' && m.onBox), [false, true]);
});

test('a film that lags is hurried, one that lags much jumps', () => {
  assert.equal(catchUp(0.01, 1), 1);
  assert.equal(catchUp(0.1, 1), 1.1);
  assert.equal(catchUp(-0.1, 2), 1.8);
  assert.equal(catchUp(0.5, 1), undefined);
  assert.equal(catchUp(3, 16), 16, 'at high speed more is forgiven, and no browser plays faster than 16');
});

test('the picture is zoomed around the fingers and never leaves its frame', () => {
  const zoom = zoomAt(NO_ZOOM, 2, 0.5, 0);
  assert.deepEqual(zoom, { scale: 2, x: -0.5, y: 0 });
  assert.deepEqual(panBy(zoom, -3, 0.1), { scale: 2, x: -0.5, y: 0.1 });
  assert.deepEqual(zoomAt(zoom, 0.1), NO_ZOOM);
  assert.equal(zoomAt(NO_ZOOM, 100).scale, 8);
});

test('the slider counts what the hub counted, or what is here', () => {
  const counts = { bucket_s: 60, buckets: [{ start: '2026-11-20T14:00:00Z', clips: 4 }, { start: '2026-11-20T14:01:00Z', clips: 1 }] };
  const bars = barsOf(counts, [], at('14:00:00'), at('14:02:00'));
  assert.deepEqual(heights(bars), [1, 0.5]);
  assert.equal(countBetween(bars, at('14:01:00'), at('14:02:00')), 1);
  const own = barsOf(undefined, [clip('a', '14:00:00', '14:00:10')], at('14:00:00'), at('14:02:00'));
  assert.equal(own.reduce((n, b) => n + b.clips, 0), 1);
  assert.deepEqual(selection(at('14:01:00') + 300, at('14:00:30'), at('14:00:00'), at('14:02:00')), { from: at('14:00:30'), to: at('14:01:00') });
  const tiny = selection(at('14:02:00'), at('14:02:00'), at('14:00:00'), at('14:02:00'));
  assert.ok(tiny.from < tiny.to && tiny.to <= at('14:02:00'));
});

test('coordinates are read as people paste them', () => {
  const table = [
    '10.74048, 106.69531',
    '10,74048 106,69531',
    `10°44'25.7"N 106°41'43.1"E`,
    '10°44′25.73″B, 106°41′43.12″Đ',
    'https://www.google.com/maps/place/10%C2%B0/@10.7300000,106.6900000,17z/data=!3m1!4b1!4m4!3m3!8m2!3d10.74048!4d106.69531',
    'https://www.google.com/maps/@10.74048,106.69531,17z',
    'https://maps.google.com/?q=10.74048,106.69531',
    'https://www.openstreetmap.org/?mlat=10.74048&mlon=106.69531#map=18/10.7/106.6',
    'https://www.openstreetmap.org/#map=18/10.74048/106.69531',
    'geo:10.74048,106.69531',
  ];
  for (const text of table) {
    const point = parsePoint(text);
    assert.ok(point && distance(point, { lat: 10.74048, lon: 106.69531 }) < 2, `${text}: ${JSON.stringify(point)}`);
  }
  for (const text of ['https://example.org/', '14 Hoa Phượng', '95.5, 10.2', 'geo:1,2']) assert.equal(parsePoint(text), undefined, text);
});

test('shapes are drawn from whatever GeoJSON comes', () => {
  assert.deepEqual(linesOf([[1, 2], [3, 4]]), [[[1, 2], [3, 4]]]);
  assert.equal(linesOf([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 1], [2, 3]]]).length, 2);
  for (const bad of [undefined, null, 'x', {}, [], [null], [['a', 'b']]]) assert.deepEqual(linesOf(bad as never), []);
  const ring = viewRing({ heading_deg: 90, angle_deg: 60, reach_m: 40 }, { lat: 10.74, lon: 106.69 });
  assert.ok(ring && ring.slice(1, -1).every(([lon]) => lon > 106.69), 'looks east');
  const band = corridor([{ lat: 10.74, lon: 106.69 }, { lat: 10.74, lon: 106.7 }], 60)[0];
  const lats = band.map(([, lat]) => lat);
  assert.ok(Math.abs(distance({ lat: Math.min(...lats), lon: 106.69 }, { lat: Math.max(...lats), lon: 106.69 }) - 60) < 1, 'the width is the whole width');
});

test('spots that would cover one another are told together', () => {
  const all = clusters([{ x: 1, y: 1 }, { x: 5, y: 9 }, { x: 200, y: 1 }], 50);
  assert.deepEqual(all.map((c) => [c.members.length, c.x]).sort(), [[1, 200], [2, 3]]);
});

test('a street is named along its longest piece, never upside down', () => {
  assert.equal(nameSpot([{ x: 0, y: 0 }, { x: 10, y: 0 }, { x: 10, y: 100 }])?.length, 100);
  assert.equal(nameSpot([{ x: 100, y: 0 }, { x: 0, y: 0 }])?.angle, 0);
  assert.equal(nameSpot([{ x: 0, y: 0 }]), undefined);
});

test('a margin breaks its lines, and a hash where it must', () => {
  assert.deepEqual(wrap('một hai ba', (l) => l.length <= 7), ['một hai', 'ba']);
  assert.deepEqual(wrap('abcdefghij', (l) => l.length <= 4), ['abcd', 'efgh', 'ij']);
});
