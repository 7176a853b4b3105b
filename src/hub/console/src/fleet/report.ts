// Owns how a month's report is put in order for one page of paper. Pure.
import type { Availability, DeviceState, Kind, Report } from './api';

/** Devices that fit on the page beside everything else. */
export const PRINTED_DEVICES = 18;

/** The worst first; of those that worked equally well, the one that was away longer; what has no time last. */
export function worstFirst(devices: Report['devices']): Report['devices'] {
  const share = (device: Availability) => device.working ?? 2;
  return devices.slice().sort((a, b) => share(a) - share(b) || away(b) - away(a) || a.name.localeCompare(b.name, 'vi'));
}

/** Seconds in which it did nothing of what it is there for. */
export function away({ in_state_s: seconds }: Availability): number {
  return (seconds.not_recording ?? 0) + (seconds.unreachable ?? 0);
}

export const countOf = (report: Report, kind: Kind) => report.devices.filter((device) => device.kind === kind).length;

/** Shares of the time in each state, for a bar; what does not count is left out. */
export function bars({ in_state_s: seconds }: Availability): { state: DeviceState; share: number }[] {
  const states: DeviceState[] = ['working', 'degraded', 'not_recording', 'unreachable'];
  const all = states.reduce((sum, state) => sum + (seconds[state] ?? 0), 0);
  return all === 0 ? [] : states.flatMap((state) => (seconds[state] ? [{ state, share: seconds[state] / all }] : []));
}
