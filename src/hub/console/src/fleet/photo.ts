// Owns making a photo small enough for a poor link before it is sent: also its place and maker are left behind.

/** Longest side in pixels: a screw can be read on it, and it has some 300 kB. */
const SIDE_MAX = 1600;
const QUALITY = 0.85;
/** The hub's own limit (PHOTO_BYTES_MAX). */
export const PHOTO_BYTES_MAX = 8 << 20;

/** How large it becomes; one that is small stays as it is. */
export function smaller(width: number, height: number, most = SIDE_MAX): { width: number; height: number } {
  const shrink = Math.min(1, most / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * shrink)), height: Math.max(1, Math.round(height * shrink)) };
}

/** The photo as JPEG; as it was where this browser can't draw it. */
export async function prepare(file: Blob): Promise<Blob> {
  try {
    const picture = await createImageBitmap(file);
    const size = smaller(picture.width, picture.height);
    const canvas = Object.assign(document.createElement('canvas'), size);
    canvas.getContext('2d')?.drawImage(picture, 0, 0, size.width, size.height);
    picture.close();
    const made = await new Promise<Blob | null>((done) => canvas.toBlob(done, 'image/jpeg', QUALITY));
    return made ?? file;
  } catch {
    return file;
  }
}
