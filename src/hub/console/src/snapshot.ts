// Owns the still picture an officer takes along: the frame as it is, and in a margin below it what it is a picture of.
// Nothing is ever drawn over the frame.

export interface Caption {
  title: string;
  /** Name and value, in the order they are to be read. */
  facts: [name: string, value: string][];
  /** A warning that belongs to the picture, such as "working copy". */
  warning?: string;
}

const WIDTH_MIN = 900;
const PAD = 18;
const LINE = 24;
const FONT = "15px 'Be Vietnam Pro', system-ui, sans-serif";
const BOLD = "600 17px 'Be Vietnam Pro', system-ui, sans-serif";

/** Words broken into lines that fit; a hash, which has no spaces, is cut where it must be. */
export function wrap(text: string, fits: (line: string) => boolean): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    const longer = line ? `${line} ${word}` : word;
    if (fits(longer)) {
      line = longer;
      continue;
    }
    if (line) lines.push(line);
    line = word;
    while (!fits(line) && line.length > 1) {
      let cut = line.length - 1;
      while (cut > 1 && !fits(line.slice(0, cut))) cut -= 1;
      lines.push(line.slice(0, cut));
      line = line.slice(cut);
    }
  }
  if (line) lines.push(line);
  return lines;
}

/** A PNG of the frame at its own size, with its margin. */
export async function snapshot(video: HTMLVideoElement, caption: Caption): Promise<Blob> {
  const canvas = document.createElement('canvas');
  const paper = canvas.getContext('2d');
  if (!paper || !video.videoWidth) throw new Error('no picture');
  await document.fonts.ready;
  const width = Math.max(WIDTH_MIN, video.videoWidth);
  paper.font = FONT;
  const names = Math.max(...caption.facts.map(([name]) => paper.measureText(name).width)) + 16;
  const room = width - 2 * PAD - names;
  const rows = caption.facts.map(([name, value]) => ({ name, lines: wrap(value, (line) => paper.measureText(line).width <= room) }));
  const count = rows.reduce((n, row) => n + row.lines.length, 1 + (caption.warning ? 1 : 0));
  canvas.width = width;
  canvas.height = video.videoHeight + count * LINE + 2 * PAD;
  paper.fillStyle = '#fff';
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(video, Math.round((width - video.videoWidth) / 2), 0);
  let y = video.videoHeight + PAD + 16;
  const line = (text: string, x: number, font: string, colour: string) => {
    paper.font = font;
    paper.fillStyle = colour;
    paper.fillText(text, x, y);
  };
  line(caption.title, PAD, BOLD, '#000');
  y += LINE;
  if (caption.warning) {
    line(caption.warning, PAD, BOLD, '#98170f');
    y += LINE;
  }
  for (const row of rows) {
    line(row.name, PAD, FONT, '#555');
    for (const text of row.lines) {
      line(text, PAD + names, FONT, '#000');
      y += LINE;
    }
  }
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error('no picture'))), 'image/png'));
}

/** Hands a file to the browser's downloads. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
