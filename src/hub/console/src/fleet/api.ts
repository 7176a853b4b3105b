// Owns talking to the hub about the fleet: the types of that part of its HTTP API, and one function per question.
import { ask, get, type Coverage, type Point } from '../api';

export type Kind = 'camera' | 'lamp' | 'gate';
export type DeviceState = 'working' | 'degraded' | 'not_recording' | 'unreachable' | 'maintenance' | 'retired';
export type CauseKind = 'hub' | 'area' | 'site' | 'box' | 'cameras_of' | 'gateway_of' | 'cabinet' | 'device';
export interface Cause {
  kind: CauseKind;
  id?: string;
}
export interface Incident {
  cause: Cause;
  trouble: string;
  since: string;
  devices: string[];
  order?: string;
}
export interface DeviceRow {
  id: string;
  name: string;
  kind: Kind;
  site: string;
  box: string;
  point?: { lat: number; lon: number };
  state: DeviceState;
  since: string;
  troubles: { trouble: string; since: string }[];
  last_heard?: string;
}
export type Totals = Partial<Record<Kind, Partial<Record<DeviceState, number>>>>;
export interface Fleet {
  at: string;
  totals: Totals;
  incidents: Incident[];
  devices: DeviceRow[];
  next?: string;
}
export interface Group {
  id?: string;
  name?: string;
  within?: string;
  point?: { lat: number; lon: number };
  totals: Totals;
  wrong: number;
  incidents: Incident[];
  orders_open: number;
  mean_time_to_repair_s?: number;
}
export interface Rollup {
  at: string;
  groups: Group[];
  truncated: boolean;
}
export interface CameraHealth {
  reachable: boolean;
  recording: boolean;
  fps: number;
  fps_expected?: number;
  kbit_per_s: number;
  lost_ppm: number;
  key_interval_s?: number;
  clock: { source: 'camera' | 'box'; sync: 'synced' | 'unsynced' | 'unknown'; offset_ms?: number };
  /** Of the camera itself, also where it is too far off to be used. */
  camera_clock_ms?: number;
  ring_days?: number;
  ring_days_due?: number;
  picture?: string[];
  self_test?: { at: string; result: string; detail?: string };
}
export interface BoxHealth {
  software: string;
  /** How it came to start last: by order, its program died, or the machine restarted. */
  started?: 'ordered' | 'crash' | 'machine';
  uptime_s: number;
  disk_free_bytes: number;
  disk_bytes: number;
  disk_wear_percent?: number;
  disk_failing?: boolean;
  temperature_c?: number;
  under_voltage?: boolean;
  memory_free_bytes: number;
  owed: number;
  link_losses: number;
  radio_dbm?: number;
  receipt_ms?: number;
}
export interface Lamp {
  circuit: number;
  on: boolean;
  current_a?: number;
  power_w?: number;
  fault?: string;
}
export interface Gate {
  open: boolean;
  forced: boolean;
  tampered: boolean;
  battery_percent?: number;
  link_percent?: number;
}
export interface Availability {
  in_state_s: Partial<Record<DeviceState, number>>;
  working?: number;
  doing?: number;
}
export interface DevicePage extends DeviceRow {
  health?: { at: string; said: CameraHealth };
  box_health?: { at: string; said: BoxHealth };
  /** What its box found broken, by name. */
  faults: Record<string, { since: string; detail: string }>;
  /** And of itself. */
  box_faults: Record<string, { since: string; detail: string }>;
  gate?: { at: string; said: Gate };
  circuits: { at: string; said: Lamp }[];
  /** Newest first. */
  states: { state: DeviceState; since: string }[];
  this_month: Availability;
  orders: Order[];
}
export type Stage = 'open' | 'assigned' | 'unproved' | 'closed';
export interface Order {
  id: string;
  cause: Cause;
  trouble: string;
  devices: string[];
  since: string;
  opened: string;
  stage: Stage;
  assignee: string | null;
  notes: { time: string; actor: string; text: string; photo: string | null }[];
  parts: [name: string, count: number][];
  mended: string | null;
  closed: string | null;
  proved: Record<string, string>;
  disproved: number;
}
export interface OrderRow extends Order {
  unprotected_camera_hours: number;
  cameras: number;
  uncovered_cameras: number;
}
export interface Report {
  month: string;
  from: string;
  to: string;
  all: Partial<Record<Kind, Availability>>;
  owners: Record<string, Partial<Record<Kind, Availability>>>;
  devices: (Availability & { id: string; name: string; kind: Kind; site: string; owner?: string })[];
  mean_time_to_repair_s?: number;
  orders_closed: number;
  orders_open: number;
}
/** What is out of reach is unknown, not dark. */
export type Darkness = 'dark' | 'partly' | 'unknown';
/** Lamps next to each other that don't give their light. */
export interface DarkStretch {
  darkness: Darkness;
  since: string;
  length_m: number;
  lamps: { device: string; circuit?: number; name: string; route: Point[] }[];
}
export interface Circuit {
  device: string;
  circuit: number;
  name: string;
  on?: boolean;
  power_w?: number;
  heard?: string;
  /** At its place now. */
  light?: 'day' | 'night' | 'between';
  troubles: string[];
  lamps?: number | null;
  route: Point[];
  /** Seconds of the month: of which something is known, in which it burnt, and in which it burnt by day. */
  known_s: number;
  burnt_s: number;
  by_day_s: number;
  energy_kwh: number;
}
export interface Lighting {
  at: string;
  month: string;
  metres: Partial<Record<Darkness, number>>;
  /** The longest dark one first. */
  stretches: DarkStretch[];
  circuits: Circuit[];
  truncated: boolean;
}
export interface Still {
  clip: string;
  time?: string;
  links: { video: string | null; thumbnail: string | null };
  arrived: boolean;
}
export interface FleetEvent {
  time: string;
  type: string;
  device?: string;
  data: { camera?: CameraHealth; box?: BoxHealth } & Partial<Lamp>;
}
export type Act = { act: 'assign'; to?: string } | { act: 'note'; text: string } | { act: 'part'; name: string; count: number } | { act: 'mended' };

export interface Wanted {
  kind?: string;
  state?: string;
  area?: string;
  q?: string;
  limit?: number;
  after?: string;
}

/** A box takes a picture, and a slow link brings it. */
const STILL_TIMEOUT_MS = 90_000;
/** The box is asked, and a slow link brings its answer. */
const VIEW_TIMEOUT_MS = 60_000;
/** A photo over a poor mobile link. */
const PHOTO_TIMEOUT_MS = 120_000;
const EVENTS_PER_PAGE = 1000;

function keys(wanted: object): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(wanted)) if (value !== undefined && value !== '') query.set(key, String(value));
  const text = query.toString();
  return text ? `?${text}` : '';
}

export const fetchFleet = (wanted: Wanted, signal?: AbortSignal) => get<Fleet>(`/api/v1/fleet${keys(wanted)}`, '', signal);
export const fetchRollup = (by: string, signal?: AbortSignal) => get<Rollup>(`/api/v1/fleet/rollup${keys({ by })}`, '', signal);
export const fetchDevice = (id: string, signal?: AbortSignal) => get<DevicePage>(`/api/v1/devices/${encodeURIComponent(id)}`, '', signal);
export const fetchOrders = (stage: string, signal?: AbortSignal) =>
  get<{ orders: OrderRow[] }>(`/api/v1/work-orders${keys({ stage })}`, '', signal).then((answer) => answer.orders);
export const fetchOrder = (id: string, signal?: AbortSignal) => get<OrderRow>(`/api/v1/work-orders/${encodeURIComponent(id)}`, '', signal);
export const fetchReport = (area: string | undefined, month: string | undefined, signal?: AbortSignal) =>
  get<Report>(`/api/v1/fleet/report${keys({ area, month })}`, '', signal);
export const reportCsv = (area: string | undefined, month: string | undefined) => `/api/v1/fleet/report.csv${keys({ area, month })}`;
export const fetchLighting = (area: string | undefined, month: string | undefined, signal?: AbortSignal) =>
  get<Lighting>(`/api/v1/lighting${keys({ area, month })}`, '', signal);

export const act = (order: string, what: Act) => get<Order>(`/api/v1/work-orders/${encodeURIComponent(order)}`, '', undefined, what);
export const openOrder = (device: string) => get<Order>('/api/v1/work-orders', '', undefined, { device });
export const sendPhoto = (order: string, photo: Blob, text: string) =>
  get<Order>(`/api/v1/work-orders/${encodeURIComponent(order)}/photos${keys({ text })}`, '', undefined, photo, PHOTO_TIMEOUT_MS);
export const photoLink = (order: string, sha256: string) => `/api/v1/work-orders/${encodeURIComponent(order)}/photos/${sha256}`;
export const takeStill = (device: string, purpose: string) =>
  get<Still>(`/api/v1/devices/${encodeURIComponent(device)}/still`, '', undefined, { purpose }, STILL_TIMEOUT_MS);

/** The hub answers with nothing but that it took it. */
export async function setService(device: string, service: 'in_use' | 'maintenance', why: string): Promise<void> {
  await ask(`/api/v1/devices/${encodeURIComponent(device)}/service`, { purpose: '', body: { service, why } });
}

/** What the camera sees now is what it is meant to see. The hub answers with nothing but that the box took it. */
export async function acceptView(device: string, purpose: string): Promise<void> {
  await ask(`/api/v1/devices/${encodeURIComponent(device)}/view`, { purpose: '', body: { purpose }, signal: AbortSignal.timeout(VIEW_TIMEOUT_MS) });
}

/** The account of one camera; clips are not what is asked for. */
export async function fetchAccount(device: string, from: Date, to: Date, purpose: string, signal?: AbortSignal): Promise<Coverage | undefined> {
  const query = keys({ device, from: from.toISOString(), to: to.toISOString(), limit: 1 });
  return (await get<{ coverage: Coverage[] }>(`/api/v1/clips${query}`, purpose, signal)).coverage[0];
}

/** Events of a device or of its box, newest first, at most so many pages; `upto` is where they end if there are more. */
export async function fetchEvents(
  wanted: { type: string; device?: string; box?: string; from: Date; to: Date },
  pages: number,
  purpose: string,
  signal?: AbortSignal,
): Promise<{ events: FleetEvent[]; upto?: string }> {
  const { from, to, ...rest } = wanted;
  const events: FleetEvent[] = [];
  let page: string | undefined;
  for (let n = 0; n < pages; n++) {
    const query = keys({ ...rest, from: from.toISOString(), to: to.toISOString(), order: 'newest', limit: EVENTS_PER_PAGE, page });
    const answer = await get<{ events: FleetEvent[]; next: string | null }>(`/api/v1/events${query}`, purpose, signal);
    events.push(...answer.events);
    if (!answer.next) return { events };
    page = answer.next;
  }
  return { events, upto: events[events.length - 1]?.time };
}
