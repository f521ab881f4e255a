import { apiList, type Call } from "./client";

/** The first items of a list, and whether there may be more. */
export interface Collected<T> {
  data: T[];
  more: boolean;
}

/** Returns the first `most` items of a list, from as many pages as it takes. */
export async function collect<T extends { id: string }>(path: string, most: number, call: Call = {}): Promise<Collected<T>> {
  const data: T[] = [];
  for await (const one of apiList<T>(path, most + 1, call)) data.push(one);
  return { data: data.slice(0, most), more: data.length > most };
}
