// Owns the words and shapes of states, troubles and causes.
import { duration, number, t, type Key } from '../i18n.svelte';
import { formatDateTime } from '../time';
import type { Cause, DeviceState, Kind } from './api';
import { areaName, deviceName, siteName } from './state.svelte';

/** A state is a colour, a shape and a word. */
export const SHAPE: Record<DeviceState, string> = { working: '●', degraded: '◐', not_recording: '○', unreachable: '✕', maintenance: '⚑', retired: '·' };
/** What wants attention first. */
export const STATES: DeviceState[] = ['unreachable', 'not_recording', 'degraded', 'maintenance', 'working'];

export function stateWords(state: DeviceState, kind?: Kind): string {
  return state === 'not_recording' && kind === 'lamp' ? t('fleet.unlit.not_recording') : t(`fleet.state.${state}`);
}

/** The state that a site or group is shown in: that of its worst device. */
export function worst(states: DeviceState[]): DeviceState {
  return STATES.find((state) => states.includes(state)) ?? 'retired';
}

/** Words for a name that comes from the hub; nothing where the hub is newer than this page. */
export function known(key: string): string | undefined {
  const words = t(key as Key);
  return words === key ? undefined : words;
}
export const troubleWords = (trouble: string) => known(`fleet.trouble.${trouble}`) ?? trouble.replaceAll('_', ' ');
export const nextWords = (trouble: string) => known(`fleet.next.${trouble}`) ?? '';

/** What a box found broken, in words. */
export const faultWords = (fault: string) => known(`fleet.fault.${fault}`) ?? fault.replaceAll('_', ' ');

export function causeWords({ kind, id = '' }: Cause): string {
  const name = kind === 'area' ? areaName(id) : kind === 'site' ? siteName(id) : kind === 'device' || kind === 'cabinet' ? deviceName(id) : id;
  return t(`fleet.cause.${kind}`, { name });
}

/** "từ 20/11/2026 22:15:07 (2 giờ 5 phút rồi)": never the one without the other. */
export function sinceWords(since: string, now: Date): string {
  const from = new Date(since);
  return `${t('fleet.since', { time: formatDateTime(from) })} (${t('fleet.ago', { length: duration(now.getTime() - from.getTime()) })})`;
}

export const percent = (share: number | undefined) => (share === undefined ? t('fleet.none') : `${number(share * 100, 1)} %`);
