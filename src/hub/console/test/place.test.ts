// Tests of the place field: names without accents, former names, house numbers nobody has, coordinates.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { purposeHeader, withPurpose, type Places } from '../src/api';
import { compass, matchPlaces, parsePoint, sector, travel } from '../src/place';

const point = { lat: 10.77, lon: 106.69 };
const places: Places = {
  areas: [{ id: 'a', name: 'Phường Bến Thành', kind: 'ward', former_names: [{ name: 'Phường Phạm Ngũ Lão', until: '2025-07-01' }] }],
  sites: [
    { id: 's1', name: 'Hẻm 14 Nguyễn Trãi', address: '14 Nguyễn Trãi', point },
    { id: 's2', name: 'Trường Đoàn Thị Điểm', address: '5 Lê Lai', point },
  ],
  devices: [{ id: 'cam-chua', name: 'Cổng chùa', kind: 'camera', site: 's1' }],
};

test('what is typed finds areas, sites and cameras without accents', () => {
  const table: [string, string | undefined][] = [
    ['ben thanh', 'Phường Bến Thành'],
    ['pham ngu lao', 'Phường Bến Thành'],
    ['14 nguyen trai', 'Hẻm 14 Nguyễn Trãi'],
    ['16 Nguyễn Trãi', 'Hẻm 14 Nguyễn Trãi'],
    ['Nguyễn Trãi'.normalize('NFD'), 'Hẻm 14 Nguyễn Trãi'],
    ['doan thi diem', 'Trường Đoàn Thị Điểm'],
    ['le l', 'Trường Đoàn Thị Điểm'],
    ['cong chua', 'Cổng chùa'],
    ['10.77, 106.69', '10.77000, 106.69000'],
    ['10,77 106,69', '10.77000, 106.69000'],
    ['không có ở đây', undefined],
    ['99', undefined],
  ];
  for (const [text, expected] of table) assert.equal(matchPlaces(text, places)[0]?.name, expected, text);
  const former = matchPlaces('pham ngu lao', places)[0];
  assert.equal(former.kind === 'area' && former.former, 'Phường Phạm Ngũ Lão');
});

test('coordinates outside the globe are none', () => {
  assert.equal(parsePoint('91, 10'), undefined);
  assert.equal(parsePoint('14 Nguyễn Trãi'), undefined);
});

test('geometry agrees with the compass', () => {
  const east = travel(point, 90, 100);
  assert.ok(east.lon > point.lon && Math.abs(east.lat - point.lat) < 1e-9);
  assert.deepEqual([0, 44, 90, 226, 359].map(compass), ['n', 'ne', 'e', 'sw', 'n']);
  const ring = sector(point, 0, 90, 50);
  assert.deepEqual(ring[0], ring[ring.length - 1]);
});

test('the purpose survives a header and a link', () => {
  assert.equal(purposeHeader(' theft report 12 '), 'theft report 12');
  assert.equal(decodeURIComponent(purposeHeader('mất xe 100%')), 'mất xe 100%');
  assert.equal(withPurpose('/v.mp4', 'mất xe'), '/v.mp4?purpose=m%E1%BA%A5t%20xe');
  assert.equal(withPurpose('/v.mp4', ' '), '/v.mp4');
});
