// Owns which figures of a camera, of its box and of lamps are told and drawn, with their units and limits. Limits are
// those by which the hub judges (src/limits.rs).
import { duration, number, seconds, t, type Key } from '../i18n.svelte';
import { known } from './words';
import { clockOff } from './series';
import type { BoxHealth, CameraHealth, FleetEvent, Gate } from './api';

export interface Figure {
  key: Key;
  value: string;
  bad?: boolean;
}
export interface Drawn {
  key: Key;
  of: (event: FleetEvent) => number | undefined;
  digits?: number;
  limit?: number;
}

const FEW_PICTURES_SHARE = 0.6;
const LOST_PPM = 10_000;
const CLOCK_OFF_MS = 2000;
const RING_SHORT_SHARE = 0.8;
const HOT_C = 80;
// Weaker than this a Wi-Fi link breaks often.
const RADIO_WEAK_DBM = -75;
const WORN_PERCENT = 90;
const BATTERY_LOW_PERCENT = 15;
const GB = 1e9;
const MB = 1e6;

const yes = (is: boolean) => t(is ? 'fleet.yes' : 'fleet.no');
const whole = (value: string, of: string | undefined) => (of === undefined ? value : t('fleet.of', { value, whole: of }));

export function cameraFigures(h: CameraHealth): Figure[] {
  const few = h.fps_expected !== undefined && h.fps < h.fps_expected * FEW_PICTURES_SHARE;
  const faults = h.picture ?? [];
  const off = clockOff(h);
  const figures: (Figure | false)[] = [
    { key: 'fleet.health.reachable', value: yes(h.reachable), bad: !h.reachable },
    { key: 'fleet.health.recording', value: yes(h.recording), bad: !h.recording },
    { key: 'fleet.health.fps', value: whole(number(h.fps, 1), h.fps_expected === undefined ? undefined : number(h.fps_expected, 1)), bad: few },
    { key: 'fleet.health.kbit', value: `${number(h.kbit_per_s)} kbit/s` },
    { key: 'fleet.health.lost', value: `${number(h.lost_ppm / 10_000, 2)} %`, bad: h.lost_ppm > LOST_PPM },
    h.key_interval_s !== undefined && { key: 'fleet.health.key', value: seconds(h.key_interval_s * 1000) },
    {
      key: 'fleet.health.clock',
      value: [off === undefined ? '' : seconds(off), t(`fleet.clock.${h.clock.sync}`)].filter(Boolean).join(', '),
      bad: Math.abs(off ?? 0) > CLOCK_OFF_MS,
    },
    h.ring_days !== undefined && {
      key: 'fleet.health.ring',
      value: t('fleet.days', { n: whole(number(h.ring_days, 1), h.ring_days_due === undefined ? undefined : number(h.ring_days_due, 1)) }),
      bad: h.ring_days_due !== undefined && h.ring_days < h.ring_days_due * RING_SHORT_SHARE,
    },
    h.picture !== undefined && {
      key: 'fleet.health.picture',
      value: faults.length ? faults.map((fault) => known(`fleet.picture.${fault}`) ?? fault).join(', ') : t('fleet.picture_fine'),
      bad: faults.length > 0,
    },
    h.self_test !== undefined && { key: 'fleet.health.self_test', value: known(`fleet.test.${h.self_test.result}`) ?? h.self_test.result, bad: h.self_test.result === 'broken' },
  ];
  return figures.filter((figure) => figure !== false);
}

export function boxFigures(h: BoxHealth): Figure[] {
  const figures: (Figure | false)[] = [
    { key: 'fleet.health.uptime', value: duration(h.uptime_s * 1000) },
    h.started !== undefined && { key: 'fleet.health.started', value: known(`fleet.started.${h.started}`) ?? h.started, bad: h.started === 'crash' },
    { key: 'fleet.health.disk', value: whole(`${number(h.disk_free_bytes / GB, 1)} GB`, `${number(h.disk_bytes / GB, 1)} GB`) },
    h.disk_wear_percent !== undefined && { key: 'fleet.health.wear', value: `${number(h.disk_wear_percent)} %`, bad: h.disk_wear_percent >= WORN_PERCENT || h.disk_failing === true },
    h.temperature_c !== undefined && { key: 'fleet.health.temperature', value: `${number(h.temperature_c, 1)} °C`, bad: h.temperature_c >= HOT_C },
    h.under_voltage !== undefined && { key: 'fleet.health.voltage', value: t(h.under_voltage ? 'fleet.low' : 'fleet.fine'), bad: h.under_voltage },
    { key: 'fleet.health.memory', value: `${number(h.memory_free_bytes / MB)} MB` },
    { key: 'fleet.health.owed', value: t('fleet.events', { n: number(h.owed) }) },
    { key: 'fleet.health.link', value: number(h.link_losses), bad: h.link_losses > 0 },
    h.radio_dbm !== undefined && { key: 'fleet.health.radio', value: `${number(h.radio_dbm)} dBm`, bad: h.radio_dbm < RADIO_WEAK_DBM },
    h.receipt_ms !== undefined && { key: 'fleet.health.receipt', value: seconds(h.receipt_ms) },
    { key: 'fleet.health.software', value: h.software },
  ];
  return figures.filter((figure) => figure !== false);
}

export function gateFigures(gate: Gate): Figure[] {
  const figures: (Figure | false)[] = [
    { key: 'fleet.gate.position', value: t(gate.open ? 'fleet.gate.open' : 'fleet.gate.closed') },
    { key: 'fleet.gate.forced', value: yes(gate.forced), bad: gate.forced },
    { key: 'fleet.gate.tampered', value: yes(gate.tampered), bad: gate.tampered },
    gate.battery_percent !== undefined && { key: 'fleet.gate.battery', value: `${number(gate.battery_percent)} %`, bad: gate.battery_percent < BATTERY_LOW_PERCENT },
    gate.link_percent !== undefined && { key: 'fleet.gate.link', value: `${number(gate.link_percent)} %` },
  ];
  return figures.filter((figure) => figure !== false);
}

export const CAMERA_CHARTS: Drawn[] = [
  { key: 'fleet.chart.fps', of: (e) => e.data.camera?.fps, digits: 1 },
  { key: 'fleet.chart.kbit', of: (e) => e.data.camera?.kbit_per_s },
  { key: 'fleet.chart.lost', of: (e) => scaled(e.data.camera?.lost_ppm, 10_000), digits: 2, limit: LOST_PPM / 10_000 },
  { key: 'fleet.chart.clock', of: (e) => scaled(e.data.camera && clockOff(e.data.camera), 1000), digits: 2 },
  { key: 'fleet.chart.ring', of: (e) => e.data.camera?.ring_days, digits: 1 },
];
export const BOX_CHARTS: Drawn[] = [
  { key: 'fleet.chart.disk', of: (e) => scaled(e.data.box?.disk_free_bytes, GB), digits: 1 },
  { key: 'fleet.chart.temperature', of: (e) => e.data.box?.temperature_c, digits: 1, limit: HOT_C },
  { key: 'fleet.chart.memory', of: (e) => scaled(e.data.box?.memory_free_bytes, MB) },
];

function scaled(value: number | undefined, by: number): number | undefined {
  return value === undefined ? undefined : value / by;
}
