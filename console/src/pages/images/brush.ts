/** What a brush covers of an image, on a canvas of the image's size. */
export class Brush {
  readonly #canvas: HTMLCanvasElement;
  readonly #colour: string;

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    this.#colour = getComputedStyle(canvas).color;
  }

  get #context(): CanvasRenderingContext2D {
    return this.#canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
  }

  /** Covers a line; from a place to itself: a dot. */
  line(from: { x: number; y: number }, to: { x: number; y: number }, width: number): void {
    const context = this.#context;
    context.strokeStyle = this.#colour;
    context.lineCap = "round";
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    // A line without length has no ends, so each end is a disc of its own.
    context.fillStyle = this.#colour;
    context.beginPath();
    context.arc(to.x, to.y, width / 2, 0, 2 * Math.PI);
    context.fill();
  }

  clear(): void {
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  /** The part of the image that is covered, from 0 to 1. */
  part(): number {
    const { width, height } = this.#canvas;
    const { data } = this.#context.getImageData(0, 0, width, height);
    let covered = 0;
    for (let at = 3; at < data.length; at += 4) covered += (data[at] ?? 0) > 127 ? 1 : 0;
    return covered / (width * height);
  }

  /** Returns the mask as the API takes it: a PNG that is transparent where the image is painted anew. */
  mask(): Promise<Blob | null> {
    const made = document.createElement("canvas");
    made.width = this.#canvas.width;
    made.height = this.#canvas.height;
    const context = made.getContext("2d") as CanvasRenderingContext2D;
    context.fillRect(0, 0, made.width, made.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.#canvas, 0, 0);
    return new Promise((resolve) => made.toBlob(resolve, "image/png"));
  }
}
