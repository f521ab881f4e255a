/** Heights of a long list, so that only what is in view is drawn. Heights not measured yet are estimates. */
export class Heights {
  #tops: number[] = [0];
  #measured = new Map<string, number>();
  #keys: readonly string[] = [];
  #dirty = 0;

  constructor(private readonly estimate: number) {}

  /** Takes the list that is shown now. What was measured before stays known. */
  setKeys(keys: readonly string[]): void {
    let same = 0;
    while (same < keys.length && keys[same] === this.#keys[same]) same += 1;
    this.#keys = keys;
    this.#dirty = Math.min(this.#dirty, same);
  }

  /** Notes a height and returns by how much it differs from what was assumed. */
  measure(key: string, height: number): number {
    const before = this.#measured.get(key) ?? this.estimate;
    if (before === height) return 0;
    this.#measured.set(key, height);
    const place = this.#find(key);
    if (place >= 0) this.#dirty = Math.min(this.#dirty, place);
    return height - before;
  }

  /** Forgets all heights, as after a change of width. */
  forget(): void {
    this.#measured.clear();
    this.#dirty = 0;
  }

  /** The top of a place; that of the end is the height of the list. */
  top(place: number): number {
    this.#settle();
    return this.#tops[Math.max(0, Math.min(place, this.#keys.length))] ?? 0;
  }

  get total(): number {
    return this.top(this.#keys.length);
  }

  /** The places that overlap a stretch, as a half-open range. */
  range(from: number, to: number): [number, number] {
    this.#settle();
    const begin = Math.max(0, this.#after(from) - 1);
    return [begin, Math.max(begin, Math.min(this.#keys.length, this.#after(to)))];
  }

  /** The first place whose top lies behind a height. */
  #after(height: number): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#tops[middle] ?? 0) > height) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #find(key: string): number {
    for (let place = this.#keys.length - 1; place >= 0; place -= 1) if (this.#keys[place] === key) return place;
    return -1;
  }

  #settle(): void {
    for (let place = this.#dirty; place < this.#keys.length; place += 1) {
      const height = this.#measured.get(this.#keys[place] as string) ?? this.estimate;
      this.#tops[place + 1] = (this.#tops[place] ?? 0) + height;
    }
    this.#tops.length = this.#keys.length + 1;
    this.#dirty = this.#keys.length;
  }
}
