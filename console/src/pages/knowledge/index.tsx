import type { PageProps } from "..";
import { FileView } from "./FileView";
import { Store } from "./Store";
import { Stores } from "./Stores";
import "./style.css";

/** Knowledge bases (vector stores): all of them, one with its files and a search, or the text of one file with its chunks. */
export default function Page({ rest }: PageProps) {
  const [store, part, chunk] = rest;
  if (store === undefined) return <Stores />;
  if (part === undefined || part === "search") return <Store key={store} id={store} tab={part === "search" ? "search" : "files"} />;
  return <FileView key={`${store}/${part}`} storeId={store} fileId={part} chunkId={chunk} />;
}
