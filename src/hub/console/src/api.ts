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
/** As the hub sends shapes: the coordinates of a GeoJSON line or polygon, longitude first. */
export type Shape = number[][] | number[][][];
export interface Area {
  id: string;
  name: string;
  kind: string;
  parent?: string;
  former_names?: { name: string; until: string }[];
  boundary?: Shape;
}
export interface Site {
  id: string;
  name: string;
  address?: string;
  area?: string;
  owner?: string;
  point: Point;
}
export interface Street {
  id: string;
  name: string;
  area?: string;
  line: Shape;
}
export interface Sector {
  heading_deg: number;
  angle_deg: number;
  reach_m: number;
}
export type View = Sector | { polygon: Shape };
export interface Circuit {
  circuit: number;
  name?: string;
  lamps?: number;
  route?: Shape;
}
export interface Device {
  id: string;
  name: string;
  kind: 'camera' | 'lamp' | 'gate';
  site: string;
  box?: string;
  view?: View;
  lamps?: number;
  circuits?: Circuit[];
}
export interface Places {
  areas: Area[];
  sites: Site[];
  devices: Device[];
  streets?: Street[];
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
  site?: Named & { address?: string };
  point?: Point;
  distance_m?: number;
  bearing_deg?: number;
  start: string;
  end: string;
  motion_start?: string;
  motion_end?: string;
  peak_score?: number;
  /** Found only because its clock is uncertain: it may lie outside what was asked. */
  certainty?: 'maybe';
  clock: Clock;
  where: 'hub' | 'box' | 'fetching';
  bytes: number;
  sha256: string;
  video?: { codec: string; width: number; height: number };
  links: { video: string | null; thumbnail: string | null; copy?: string | null };
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
export interface Stretch {
  start: string;
  end: string;
}
export type Lit = 'lit' | 'dark' | 'unknown';
export interface LampNear {
  device: string | Named;
  circuit: number;
  name?: string;
  distance_m?: number;
  spans: (Stretch & { state: Lit })[];
}
export interface Coverage {
  device: Named;
  site: Named;
  point: Point;
  distance_m?: number;
  bearing_deg?: number;
  view?: View;
  sees?: { distance_m: number; off_axis_deg: number };
  recorded_s: number;
  gap_s: number;
  unconfirmed_s: number;
  truncated: boolean;
  spans: Span[];
  /** Recorded, but still lying on the box only. */
  at_box?: Stretch[];
  /** Recorded, not at the hub, and no longer on the box. */
  overwritten_s?: number;
  fetch?: { available: boolean; why?: { vi: string; en: string } };
  lamps?: LampNear[];
}
export interface Understood {
  from: string;
  to: string;
  windows?: { from: string; to: string }[];
  words?: { vi: string; en: string };
  order?: string;
  cameras?: number;
}
export interface Answer {
  understood: Understood;
  clips: Clip[];
  coverage: Coverage[];
  next: string | null;
}
/** The keys of a question, as in the body of POST; `undefined` keys are left out. */
export interface Question {
  from?: string;
  to?: string;
  hours?: string;
  weekdays?: string[];
  lat?: number;
  lon?: number;
  radius_m?: number;
  polygon?: { type: 'Polygon'; coordinates: number[][][] };
  route?: { type: 'LineString'; coordinates: number[][] };
  width_m?: number;
  area?: string;
  sees?: string;
  device?: string[];
  order?: 'newest' | 'oldest';
  limit?: number;
  page?: string;
}
/** One line of a streamed answer. */
export interface Line {
  understood?: Understood;
  clip?: Clip;
  coverage?: Coverage;
  end?: { next: string | null };
  error?: { title?: string; detail?: string; status?: number };
}
export interface Bucket {
  start: string;
  clips: number;
}
export interface Suggestion {
  kind: 'area' | 'site' | 'device' | 'street' | 'coordinates';
  id?: string;
  name: string;
  former_name?: string;
  former_until?: string;
  context?: string;
  point?: Point;
}
export interface Look {
  device: Named;
  site?: Named;
  point: Point;
  distance_m: number;
  bearing_deg?: number;
  window: { from: string; to: string };
  sees: boolean;
  clips_url?: string;
}
export interface FollowQuestion {
  clip?: string;
  point?: Point;
  time?: string;
  heading_deg?: number;
  speed: 'walking' | 'bicycle' | 'motorbike' | { min_kmh: number; max_kmh: number };
  minutes?: number;
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

/** No byte for so long: the hub is taken to be away. */
const ANSWER_TIMEOUT_MS = 30_000;
/** Longer questions (a drawn polygon, a street) go as a body. */
const QUERY_CHARS_MAX = 1500;
/** What servers take in an address. */
const ADDRESS_CHARS_MAX = 7000;

interface Ask {
  purpose: string;
  signal?: AbortSignal;
  /** A picture goes as it is, everything else as JSON. */
  body?: unknown;
  accept?: string;
}

export async function ask(path: string, { purpose, signal, body, accept = 'application/json' }: Ask): Promise<Response> {
  const headers: Record<string, string> = { accept };
  if (purpose.trim()) headers['camnet-purpose'] = purposeHeader(purpose);
  if (body !== undefined) headers['content-type'] = body instanceof Blob ? body.type : 'application/json';
  const method = body === undefined ? 'GET' : 'POST';
  let response: Response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined || body instanceof Blob ? body : JSON.stringify(body) });
  } catch (error) {
    if (signal?.aborted && !(signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError')) throw error;
    throw new HubError('offline', 0, '', '');
  }
  if (response.ok) return response;
  const problem = (await response.json().catch(() => ({}))) as { title?: string; detail?: string };
  const denied = response.status === 401 || response.status === 403;
  const title = problem.title ?? `${response.status} ${response.statusText}`;
  throw new HubError(denied ? 'denied' : 'problem', response.status, title, problem.detail ?? '');
}

export async function get<T>(path: string, purpose: string, signal?: AbortSignal, body?: unknown, within_ms = ANSWER_TIMEOUT_MS): Promise<T> {
  const limit = AbortSignal.timeout(within_ms);
  const response = await ask(path, { purpose, body, signal: signal ? eitherSignal(signal, limit) : limit });
  return (await response.json()) as T;
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

/** The question as a query string: lists with commas, shapes as JSON text. */
export function queryOf(question: Question): URLSearchParams {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(question)) {
    if (value === undefined || (Array.isArray(value) && value.length === 0)) continue;
    if (Array.isArray(value)) query.set(key, value.join(','));
    else if (typeof value === 'object') query.set(key, JSON.stringify(value));
    else query.set(key, typeof value === 'number' && key !== 'limit' ? String(Number(value.toFixed(6))) : String(value));
  }
  return query;
}

/** Asks for clips; `on` is called with the lines of each piece that comes. The hub may stream, or answer at once. */
export async function streamClips(question: Question, purpose: string, signal: AbortSignal, on: (lines: Line[]) => void): Promise<void> {
  const idle = new AbortController();
  let timer = setTimeout(() => idle.abort(new DOMException('', 'TimeoutError')), ANSWER_TIMEOUT_MS);
  const query = queryOf(question);
  const long = query.toString().length > QUERY_CHARS_MAX;
  try {
    const response = await ask(long ? '/api/v1/clips' : `/api/v1/clips?${query}`, {
      purpose,
      signal: eitherSignal(signal, idle.signal),
      body: long ? question : undefined,
      accept: 'application/x-ndjson, application/json;q=0.5',
    });
    if (!response.headers.get('content-type')?.includes('ndjson') || !response.body) {
      const answer = (await response.json()) as Answer;
      on([{ understood: answer.understood }, ...answer.clips.map((clip) => ({ clip })), ...answer.coverage.map((coverage) => ({ coverage })), { end: { next: answer.next } }]);
      return;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    let ended = false;
    for (;;) {
      const { done, value } = await reader.read();
      clearTimeout(timer);
      timer = setTimeout(() => idle.abort(new DOMException('', 'TimeoutError')), ANSWER_TIMEOUT_MS);
      const { lines, left } = splitLines(rest + (value ?? ''), done);
      rest = left;
      const failed = lines.find((line) => line.error)?.error;
      ended ||= lines.some((line) => line.end);
      if (lines.length) on(lines);
      if (failed) throw new HubError('problem', failed.status ?? 500, failed.title ?? '', failed.detail ?? '');
      if (done) break;
    }
    // A stream that breaks off has not said its end.
    if (!ended) throw new HubError('offline', 0, '', '');
  } catch (error) {
    if (signal.aborted || error instanceof HubError) throw error;
    throw new HubError('offline', 0, '', '');
  } finally {
    clearTimeout(timer);
  }
}

/** Whole lines of what has come so far, and the piece of a line that is left. */
export function splitLines(text: string, done: boolean): { lines: Line[]; left: string } {
  const pieces = text.split('\n');
  const left = done ? '' : (pieces.pop() ?? '');
  return { lines: pieces.filter((piece) => piece.trim()).map((piece) => JSON.parse(piece) as Line), left };
}

/** How many clips in each piece of the asked time; nothing where this hub does not count. */
export async function fetchTimeline(question: Question, purpose: string, signal: AbortSignal): Promise<{ bucket_s: number; buckets: Bucket[] } | undefined> {
  const { order: _order, limit: _limit, page: _page, ...counted } = question;
  const query = queryOf(counted).toString();
  if (query.length > ADDRESS_CHARS_MAX) return undefined;
  try {
    return await get(`/api/v1/timeline?${query}`, purpose, signal);
  } catch {
    return undefined;
  }
}

export const fetchSuggestions = (text: string, purpose: string, signal: AbortSignal) =>
  get<Suggestion[] | { suggestions: Suggestion[] }>(`/api/v1/suggest?${new URLSearchParams({ q: text, limit: '8' })}`, purpose, signal).then((answer) =>
    Array.isArray(answer) ? answer : answer.suggestions,
  );

/** What the hub understands of words for a time; the console asks where its own reading fails. */
export const fetchUnderstood = (when: string, purpose: string, signal: AbortSignal) =>
  get<Understood | { understood: Understood }>(`/api/v1/understand?${new URLSearchParams({ when })}`, purpose, signal).then((answer) =>
    'understood' in answer ? answer.understood : answer,
  );

export const fetchFollow = (question: FollowQuestion, purpose: string, signal?: AbortSignal) =>
  get<{ cameras: Look[] }>('/api/v1/follow', purpose, signal, question);

/** Asks for footage that lies on a box; a hub that cannot fetch yet says so in words. */
export const requestFootage = (wanted: { device: string; from: string; to: string }, purpose: string) =>
  get<unknown>('/api/v1/footage-requests', purpose, undefined, wanted);

/** The base map that the hub's configuration names, if any. */
export async function fetchBasemap(): Promise<string | undefined> {
  try {
    return (await get<{ pmtiles: string | null }>('/basemap.json', '')).pmtiles ?? undefined;
  } catch {
    return undefined;
  }
}

/** What the hub says of a link that the browser could not open. */
export async function whyNot(link: string, purpose: string): Promise<HubError | undefined> {
  const stop = new AbortController();
  try {
    await ask(link, { purpose, signal: eitherSignal(stop.signal, AbortSignal.timeout(ANSWER_TIMEOUT_MS)), accept: '*/*' });
    stop.abort();
    return undefined;
  } catch (error) {
    return error instanceof HubError ? error : undefined;
  }
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
