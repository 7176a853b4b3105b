// Owns how clips and coverage are put together for the eye: groups by camera, causes of gaps, one-line words.
import { HubError, type Clip, type Coverage, type LampNear, type Lit, type Named, type Span } from './api';
import { clockWords, duration, language, seconds, t, type Key } from './i18n.svelte';
import { compass } from './place';
import { app } from './state.svelte';
import { formatClock, formatDate, formatDateTime } from './time';

export interface Group {
  id: string;
  name: string;
  site: string;
  distance_m?: number;
  bearing_deg?: number;
  clips: Clip[];
  coverage?: Coverage;
}

/** Every camera that was asked, those with clips first, then the nearest. */
export function groups(clips: Clip[], coverage: Coverage[]): Group[] {
  const byId = new Map<string, Group>();
  for (const c of coverage) {
    const { distance_m, bearing_deg } = c.sees ? { ...c, ...c.sees } : c;
    byId.set(c.device.id, { id: c.device.id, name: c.device.name, site: c.site.name, distance_m, bearing_deg, clips: [], coverage: c });
  }
  for (const clip of clips) {
    const id = clip.device.id;
    const group = byId.get(id) ?? { id, name: clip.device.name, site: clip.site?.name ?? '', clips: [] };
    group.distance_m ??= clip.distance_m;
    group.bearing_deg ??= clip.bearing_deg;
    group.clips.push(clip);
    byId.set(id, group);
  }
  const far = (g: Group) => g.distance_m ?? 0;
  return [...byId.values()].sort(
    (a, b) => Number(b.clips.length > 0) - Number(a.clips.length > 0) || far(a) - far(b) || a.name.localeCompare(b.name, 'vi'),
  );
}

/** Shorter gaps are the seams between two words of the box: nobody is told of them one by one. */
export const TOLD_GAP_MS = 1000;

export interface Gap extends Span {
  /** From here on it is only the box's last word. */
  unconfirmed_from?: string;
}

/** The gaps worth telling; what the box has not confirmed yet belongs to the gap it goes on from. */
export function gaps(coverage: Coverage | undefined): Gap[] {
  const told: Gap[] = [];
  for (const span of (coverage?.spans ?? []).filter((s) => s.state === 'gap')) {
    const last = told[told.length - 1];
    if (span.confirmed !== false) told.push({ ...span });
    else if (last?.end === span.start && last.cause === span.cause) Object.assign(last, { end: span.end, unconfirmed_from: span.start });
    else told.push({ ...span, unconfirmed_from: span.start });
  }
  return told.filter((gap) => Date.parse(gap.end) - Date.parse(gap.start) >= TOLD_GAP_MS);
}

/** "6 phút, còn tiếp; từ 02:05:10 là theo báo cáo cuối của hộp, chưa xác nhận". */
export function gapLengthWords(gap: Gap): string {
  const length = duration(Date.parse(gap.end) - Date.parse(gap.start)) + (gap.open ? `, ${t('gap.still_open')}` : '');
  if (!gap.unconfirmed_from) return length;
  const words = gap.unconfirmed_from === gap.start ? t('gap.unconfirmed') : t('gap.unconfirmed_from', { time: formatClock(new Date(gap.unconfirmed_from)) });
  return `${length}; ${words}`;
}

/** The catalogue's word for a cause; a cause this page does not know yet is said to be unknown. */
export function causeKey(cause: string | undefined): Key {
  return CAUSES.has(cause ?? '') ? (`gap.${cause}` as Key) : 'gap.unknown';
}
export function causeNextKey(cause: string | undefined): Key {
  return CAUSES.has(cause ?? '') ? (`gap.next.${cause}` as Key) : 'gap.next.unknown';
}
const CAUSES = new Set(['box_off', 'camera_unreachable', 'stream_broken', 'disk_full', 'disk_failed', 'clock_unsure', 'paused_by_owner', 'not_yet_reported']);

/** 21:00:05 – 21:12:40, with a date where the asked range spans several days. */
export function spanWords(span: { start: string; end: string }): string {
  const [start, end] = [new Date(span.start), new Date(span.end)];
  const from = severalDays() ? formatDateTime(start) : formatClock(start);
  return `${from} – ${formatDate(start) === formatDate(end) ? formatClock(end) : formatDateTime(end)}`;
}

export function startWords(clip: Clip): string {
  const at = new Date(clip.start);
  return severalDays() ? formatDateTime(at) : formatClock(at);
}

export function severalDays(): boolean {
  return app.answered !== undefined && formatDate(app.answered.from) !== formatDate(app.answered.to);
}

/** "56 m, hướng tây bắc"; nothing when no point was asked about. */
export function distanceWords(of: { distance_m?: number; bearing_deg?: number }): string {
  if (of.distance_m === undefined) return '';
  if (of.distance_m < 3) return t('clip.here');
  const far = t('clip.distance', { m: Math.round(of.distance_m) });
  return of.bearing_deg === undefined ? far : `${far}, ${t('clip.direction', { direction: t(`dir.${compass(of.bearing_deg)}`) })}`;
}

/** "± 0,18 s", or that the clock is not sure. */
export function certaintyWords(clip: Clip): string {
  if (clip.clock.sync !== 'synced') return t('clip.clock_unsure');
  return clip.clock.uncertainty_ms === undefined ? '' : t('clip.uncertainty', { value: seconds(clip.clock.uncertainty_ms) });
}

export const whereWords = (clip: Clip) => t(clip.where === 'hub' ? 'clip.at_hub' : clip.where === 'box' ? 'clip.on_box' : 'clip.fetching');
export const WHERE_SHAPE: Record<Clip['where'], string> = { hub: '▣', box: '▢', fetching: '◪' };

/** The hub's H.264 copy of a clip; a hub without GStreamer refuses it in words. */
export const copyLink = (clip: Clip) => clip.links.copy ?? `/api/v1/clips/${clip.id}/copy.mp4`;

/** What came of asking for a camera's footage from its box. */
export function requestFootageWords(device: string): string {
  const state = app.requests.get(device);
  if (!state) return '';
  if (state === 'waiting') return t('fetch.waiting');
  if (state === 'asked') return t('fetch.asked');
  const said = [state.title, state.detail].filter(Boolean).join(': ');
  return state.kind === 'offline' ? t('error.offline') : `${t('error.problem_text')} “${said}”`;
}
export const isRefused = (device: string) => app.requests.get(device) instanceof HubError;

/** Why fetching is not offered, in the hub's own words of this language. */
export const fetchWhy = (coverage: Coverage | undefined) => (coverage?.fetch?.available === false ? (coverage.fetch.why?.[language()] ?? '') : '');

/** The state of the nearest lamps at a moment: what most of the circuits said; `undefined` where none is near. */
export function litAt(lamps: LampNear[] | undefined, at: number): Lit | undefined {
  if (!lamps?.length) return undefined;
  const states = lamps.map((lamp) => lamp.spans.find((s) => Date.parse(s.start) <= at && at < Date.parse(s.end))?.state ?? 'unknown');
  if (states.includes('lit')) return 'lit';
  return states.includes('dark') ? 'dark' : 'unknown';
}
export const LIT_SHAPE: Record<Lit, string> = { lit: '☀', dark: '☾', unknown: '?' };
export const idOf = (named: string | Named) => (typeof named === 'string' ? named : named.id);

/** "12 giây có chuyển động": what moved, as far as the box said. */
export function movedWords(clip: Clip): string {
  if (!clip.motion_start || !clip.motion_end) return '';
  return t('clip.moved', { length: duration(Date.parse(clip.motion_end) - Date.parse(clip.motion_start)) });
}

/** Everything about a clip in one line, for those who listen and for the pointer. */
export function clipLine(clip: Clip): string {
  const time = `${formatDateTime(new Date(clip.start))} ${certaintyWords(clip)}`;
  const lit = litAt(app.coverage.find((c) => c.device.id === clip.device.id)?.lamps, Date.parse(clip.start));
  const maybe = clip.certainty === 'maybe' ? t('clip.maybe') : '';
  return [clip.device.name, distanceWords(clip), time, maybe, clockWords(clip.clock), movedWords(clip), lit ? t(`lit.${lit}`) : '', whereWords(clip)].filter(Boolean).join(' · ');
}

/** The clips that "previous" and "next" walk through, in the order they happened. */
export function neighbours(clip: Clip): { list: Clip[]; index: number } {
  const list = app.clips
    .filter((c) => app.view === 'time' || c.device.id === clip.device.id)
    .sort((a, b) => Date.parse(a.start) - Date.parse(b.start));
  return { list, index: list.findIndex((c) => c.id === clip.id) };
}
