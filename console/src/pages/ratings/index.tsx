import type { PageProps } from "..";
import { Results } from "./Results";
import { Studies } from "./Studies";
import { Work } from "./Work";
import "./style.css";

/** Ratings: all studies, the pairs of one, or its results. */
export default function Page({ rest }: PageProps) {
  const [study, part] = rest;
  if (study === undefined) return <Studies />;
  return part === "results" ? <Results key={study} id={study} /> : <Work key={study} id={study} />;
}
