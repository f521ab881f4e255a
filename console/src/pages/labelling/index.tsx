import type { PageProps } from "..";
import { Projects } from "./Projects";
import { Work } from "./Work";
import "./style.css";

/** Labelling: all projects, or the texts of one. */
export default function Page({ rest }: PageProps) {
  const [project] = rest;
  return project === undefined ? <Projects /> : <Work key={project} id={project} />;
}
