// Owns talking to the hub: the types of its HTTP API, one function per question, and one kind of error.

export interface Point {
  lat: number;
  lon: number;
}
export interface Session {
  actor: string;
  demo: boolean;
  version: string;
  time: string;
}
export interface Area {
  id: string;
  name: string;
  kind: string;
  parent?: string;
  former_names?: { name: string; until: string }[];
}
export interface Site {
  id: string;
  name: string;
  address?: string;
  area?: string;
  owner?: string;
  point: Point;
}
export interface Device {
  id: string;
  name: string;
  kind: 'camera' | 'lamp' | 'gate';
  site: string;
  box?: string;
  view?: { heading_deg: number; angle_deg: number; reach_m: number };
  lamps?: number;
}
export interface Places {
  areas: Area[];
  sites: Site[];
  devices: Device[];
}

export interface Named {
  id: string;
  name: string;
}
export interface Clock {
  source: 'camera' | 'box';
  sync: 'synced' | 'unsynced' | 'unknown';
  offset_ms?: number;
  uncertainty_ms?: number;
}
export interface Clip {
  id: string;
  device: Named;
  site: Named & { address?: string };
  point: Point;
  distance_m?: number;
  bearing_deg?: number;
  start: string;
  end: string;
  motion_start?: string;
  motion_end?: string;
  peak_score?: number;
  clock: Clock;
  where: 'hub' | 'box' | 'fetching';
  bytes: number;
  sha256: string;
  video?: { codec: string; width: number; height: number };
  links: { video: string | null; thumbnail: string | null };
}
export type GapCause =
  | 'box_off'
  | 'camera_unreachable'
  | 'stream_broken'
  | 'disk_full'
  | 'disk_failed'
  | 'clock_unsure'
  | 'paused_by_owner'
  | 'not_yet_reported';
export interface Span {
  state: 'recorded' | 'gap';
  cause?: GapCause;
  start: string;
  end: string;
  open: boolean;
  /** `false`: so by the box's last word, not yet confirmed. */
  confirmed?: boolean;
}
export interface Coverage {
  device: Named;
  site: Named;
  point: Point;
  distance_m?: number;
  recorded_s: number;
  gap_s: number;
  unconfirmed_s: number;
  truncated: boolean;
  spans: Span[];
}
export type UnderstoodPlace =
  | { kind: 'everywhere' }
  | { kind: 'circle'; point: Point; radius_m: number }
  | { kind: 'area'; area: Named }
  | { kind: 'devices' };
export interface Answer {
  understood: { from: string; to: string; order: string; place: UnderstoodPlace; cameras: number };
  clips: Clip[];
  coverage: Coverage[];
  next: string | null;
}
export interface Question {
  from: Date;
  to: Date;
  lat?: number;
  lon?: number;
  radius_m?: number;
  area?: string;
  device?: string[];
  order: 'newest' | 'oldest';
  limit: number;
  page?: string;
}
export interface LampEvent {
  id: string;
  source: string;
  time: string;
  device?: string | Named;
  data: { circuit: number; reason: string; on: boolean; current_a?: number; power_w?: number; fault?: string };
}

/** Why a question got no answer: no way to the hub, not allowed, or the hub's own words (RFC 9457). */
export class HubError extends Error {
  constructor(
    readonly kind: 'offline' | 'denied' | 'problem',
    readonly status: number,
    readonly title: string,
    readonly detail: string,
  ) {
    super(`${status} ${title}`);
  }
}

/** Headers carry ASCII only: whatever is beyond it (and %) travels percent-encoded as UTF-8. */
export function purposeHeader(purpose: string): string {
  return purpose.trim().replace(/[^\x20-\x7e]|%/gu, encodeURIComponent);
}

const ANSWER_TIMEOUT_MS = 30_000;

async function get<T>(path: string, purpose: string, signal?: AbortSignal): Promise<T> {
  const limit = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
  const headers: Record<string, string> = { accept: 'application/json' };
  if (purpose.trim()) headers['camnet-purpose'] = purposeHeader(purpose);
  let response: Response;
  try {
    response = await fetch(path, { headers, signal: signal ? eitherSignal(signal, limit) : limit });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new HubError('offline', 0, '', '');
  }
  if (response.ok) return (await response.json()) as T;
  const problem = (await response.json().catch(() => ({}))) as { title?: string; detail?: string };
  const denied = response.status === 401 || response.status === 403;
  const title = problem.title ?? `${response.status} ${response.statusText}`;
  throw new HubError(denied ? 'denied' : 'problem', response.status, title, problem.detail ?? '');
}

/** AbortSignal.any is younger than some browsers in use. */
function eitherSignal(a: AbortSignal, b: AbortSignal): AbortSignal {
  const both = new AbortController();
  for (const signal of [a, b]) {
    if (signal.aborted) both.abort(signal.reason);
    signal.addEventListener('abort', () => both.abort(signal.reason), { once: true });
  }
  return both.signal;
}

export const fetchSession = (purpose: string) => get<Session>('/api/v1/session', purpose);
export const fetchPlaces = (purpose: string) => get<Places>('/api/v1/places', purpose);

export function fetchClips(question: Question, purpose: string, signal: AbortSignal): Promise<Answer> {
  const query = new URLSearchParams({
    from: question.from.toISOString(),
    to: question.to.toISOString(),
    order: question.order,
    limit: String(question.limit),
  });
  if (question.lat !== undefined && question.lon !== undefined) {
    query.set('lat', question.lat.toFixed(6));
    query.set('lon', question.lon.toFixed(6));
    query.set('radius_m', String(question.radius_m ?? 200));
  }
  if (question.area) query.set('area', question.area);
  if (question.device?.length) query.set('device', question.device.join(','));
  if (question.page) query.set('page', question.page);
  return get<Answer>(`/api/v1/clips?${query}`, purpose, signal);
}

/** The newest word of each lamp circuit, or nothing when this hub does not keep lamps. */
export async function fetchLamps(purpose: string): Promise<LampEvent[] | undefined> {
  try {
    const query = new URLSearchParams({ type: 'camnet.lamp.v1', order: 'newest', limit: '500' });
    return (await get<{ events: LampEvent[] }>(`/api/v1/events?${query}`, purpose)).events;
  } catch {
    return undefined;
  }
}

/** Links are followed by <img> and <video>, which set no headers: the purpose goes in the address. */
export function withPurpose(link: string, purpose: string): string {
  if (!purpose.trim()) return link;
  return `${link}${link.includes('?') ? '&' : '?'}purpose=${encodeURIComponent(purpose.trim())}`;
}
