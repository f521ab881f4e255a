export type Size = "256x256" | "512x512" | "1024x1024" | "1536x1024" | "1024x1536";
export type Quality = "low" | "medium" | "high";

/** What the form asks for. */
export interface Wish {
  prompt: string;
  size: Size;
  count: number;
  /** As it is typed; empty: a random one. */
  seed: string;
  quality: Quality;
}

/** An image of this session. */
export interface Picture {
  id: number;
  /** How it was made, which the text beside it says. */
  kind: "drawn" | "varied" | "edited";
  /** Of a variation: that of the image that it follows. */
  prompt: string;
  seed: number;
  size: Size;
  /** The size at which the model draws. */
  drawn: string;
  blob: Blob;
  /** Address of `blob` within this page. */
  url: string;
}

/** An event of a stream of images. */
export interface ImageEvent {
  type: string;
  b64_json: string;
  seed: number;
  size: Size;
  drawn_size: string;
}

/** The answer of a request that is no stream. */
export interface Images {
  data: { b64_json: string; seed: number }[];
  size: Size;
  drawn_size: string;
}

/** An edit of an image: a text, and the part that is painted anew, or how much of the whole is given up. */
export interface Edit {
  prompt: string;
  mask: Blob | null;
  strength: number;
}
