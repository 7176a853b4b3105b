// Owns what the technicians' map shows: sites in the state of their worst device, views, lamp circuits, dark streets. Pure.
import type { Places } from '../api';
import { shapes, type Shapes } from '../map';
import { lampMap, type CameraState, type LampState } from '../state.svelte';
import type { LampEvent, Point } from '../api';
import type { DarkStretch, DeviceRow, DeviceState } from './api';
import { darkLines } from './lighting';

/** The map's colours know an officer's states; each of ours has one that looks like it. */
const LOOK: Record<DeviceState, CameraState> = { working: 'full', degraded: 'partly', not_recording: 'none', unreachable: 'unreachable', maintenance: 'unasked', retired: 'unasked' };
/** Troubles of a cabinet that its own words may not show: it says that it is on, and no power is drawn. */
const LAMP_FAULTS = ['supply_loss', 'lamp_failure', 'on_when_off', 'on_by_day', 'off_by_night', 'cabinet_fault'];

/** The state of each circuit: by its newest word, or unknown where nothing is heard of its cabinet. */
export function circuits(places: Places, events: LampEvent[] | undefined, devices: DeviceRow[]): Map<string, Map<number, LampState>> {
  const known = lampMap(places, events);
  for (const device of devices) {
    const own = known.get(device.id);
    if (own && device.state === 'unreachable') for (const circuit of own.keys()) own.set(circuit, 'unknown');
  }
  return known;
}

/** What a lamp device is shown as: faulty before dark, dark before lit. */
export function lampLook(device: DeviceRow, own: Map<number, LampState> | undefined): LampState {
  const states = [...(own?.values() ?? [])];
  if (device.state === 'unreachable' || states.length === 0) return 'unknown';
  if (device.troubles.some(({ trouble }) => LAMP_FAULTS.includes(trouble)) || states.includes('fault')) return 'fault';
  return (['dark', 'lit'] as const).find((state) => states.includes(state)) ?? 'unknown';
}

export function fleetShapes(places: Places, devices: DeviceRow[], lamps: Map<string, Map<number, LampState>> | undefined, dark: DarkStretch[], center: Point): Shapes {
  const states = new Map(devices.map((device) => [device.id, LOOK[device.state]]));
  const unlit = lamps && { dark: darkLines(dark, 'dark'), partly: darkLines(dark, 'partly'), unknown: darkLines(dark, 'unknown') };
  const drawn = shapes({ places, states, lamps: lamps ?? new Map(), clips: [], place: { kind: 'everywhere' }, unlit, center });
  // One layer at a time: views with devices, circuits with lamps.
  return lamps ? { ...drawn, sectors: { type: 'FeatureCollection', features: [] } } : { ...drawn, lamps: { type: 'FeatureCollection', features: [] } };
}
